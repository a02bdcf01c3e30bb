"""Train SSA-GAN, by the paper's settings or your own: ``t2ilayers train`` as a script to copy and change.

python examples/train_ssagan.py --experiment cub
python examples/train_ssagan.py --data my_pictures --image-size 64 --steps 2000

The loop is ``train`` in src/t2ilayers/cli/train.py, the published settings stand in src/t2ilayers/cli/_configs.py.
"""

import sys

from t2ilayers.cli.train import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
