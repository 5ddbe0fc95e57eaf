"""The compiled extensions, and the manual pages. Everything else about the package is in setup.cfg.

The extensions are optional: without a C compiler the installation goes on, and the same functions run in Python.
With KTCPVS_EXTENSIONS=required in the environment, one that cannot be compiled is an error.
"""

import os
import runpy
from glob import glob
from pathlib import Path

from setuptools import Extension, setup

runpy.run_path("docs/tools/manual_pages.py")["write"](Path("build/man"))

setup(
    ext_modules=[
        Extension(
            name,
            [f"{name.replace('.', '/')}.c"],
            depends=glob("ktcpvs/**/_*.h", recursive=True),
            extra_compile_args=["-O2", "-Werror=implicit-function-declaration"],
            libraries=["m"],
            optional=os.environ.get("KTCPVS_EXTENSIONS") != "required",
        )
        for name in (
            "ktcpvs.protocols._compiled",
            "ktcpvs.protocols.http2._compiled",
            "ktcpvs.http._fast_path",
            "ktcpvs.http._http2_streams",
            "ktcpvs.streams._bare",
            "ktcpvs.streams._tls",
            "ktcpvs.dispatch._connection",
            "ktcpvs.tcp._connection",
            "ktcpvs.schedulers._balance",
            "ktcpvs.schedulers._compiled",
            "ktcpvs.schedulers._hashing",
            "ktcpvs.system._tickets",
        )
    ],
)
