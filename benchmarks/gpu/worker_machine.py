"""Print, as JSON, the versions of a run, or end with the reason why the device cannot be used: worker_machine.py DEVICE
"""

import json
import sys

from mindfcn import runtime
from mindfcn.errors import UserError

try:
    runtime.set_up(sys.argv[1])
except UserError as error:
    sys.exit(str(error))
print(json.dumps(runtime.versions()))
