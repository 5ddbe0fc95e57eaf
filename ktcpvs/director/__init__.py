"""The director: it carries edits out, so that what runs follows the table without a gap.

An edit is checked (`edit_checks`), prepared (`preparation`), saved and put in force (`commit`). What changes without
one, such as addresses of names, goes the same way (`table_runner`). Both change the running services of `services`.
"""
