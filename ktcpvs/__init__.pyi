# What type checkers see of the package: at run time, Switch and endpoint are imported when they are first used.

from ktcpvs.in_process.shared import endpoint as endpoint
from ktcpvs.in_process.switch import Switch as Switch
from ktcpvs.version import __version__ as __version__
