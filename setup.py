"""The compiled extension. Everything else about the package is in setup.cfg.

It is optional: without a C compiler the installation goes on, and the same functions run in Python.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "ktcpvs.protocols._compiled",
            ["ktcpvs/protocols/_compiled.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-O2"],
            optional=True,
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
