"""``python -m finetune_operator.cluster``: settings from the environment, see settings.py."""

import sys

from finetune_operator.cluster.logs import set_up
from finetune_operator.cluster.run import main
from finetune_operator.cluster.settings import read_settings

if __name__ == "__main__":
    try:
        settings = read_settings()
    except ValueError as error:
        sys.exit(str(error))
    set_up(settings)
    main(settings)
