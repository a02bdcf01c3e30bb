"""Pre-train text and image encoder with DAMSM: ``t2ilayers pretrain`` as a script to copy and change.

python examples/pretrain_damsm.py --data my_pictures --epochs 40

The loop is ``pretrain`` in src/t2ilayers/cli/pretrain.py.
"""

import sys

from t2ilayers.cli.pretrain import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
