"""Stage 2: inputs become kvs/<model>/<dataset>/item_<id>/{kvs.pt, surprisal.pt, sinks.pt}.

With ``STORE=chunks``, ``item_<id>/kvs.json`` and the chunks that it names, kvs/<model>/chunks/.

Run it from the repository root: ``python -m precompute DATASET=2wikimqa``. Inputs that stage 1 has
not built yet are built first.
"""

from __future__ import annotations

import sys
from chunk.build import ensure

from precompute.build import precompute
from stage.config import UNCODED, PrecomputeConfig
from stage.options import command
from stage.session import begin


def main(config: PrecomputeConfig) -> None:
    """Precompute every dataset named."""
    for session in begin(config, ensure):
        # As they are first: what another codec then needs is not run again.
        for codec in sorted(config.codec, key=lambda codec: codec != UNCODED):
            precompute(session.under(codec), config.scores)


if __name__ == "__main__":
    sys.exit(command("precompute", PrecomputeConfig, main))
