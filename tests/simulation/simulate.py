"""What the tests of fedmoe-simulate share."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from end_to_end import BIN, MODEL, EndToEndTest  # noqa: E402

CONFIG = {
    "name": "virtual", "model": MODEL,
    "run": {"rounds": 3, "deterministic": True, "clients": {"min": 3}},
    "fleet": {"clients": 3, "test_examples": 256, "data": {"domains": {"examples": 128}},
              "capacity": {"measure": False, "max_experts": [1, 2, 3]}},
}


class SimulateTest(EndToEndTest):
    def simulate(self, *arguments, label="simulate"):
        return self.sandbox.start(label, BIN / "fedmoe-simulate", *arguments)

    def simulate_config(self, config, *arguments, out="virtual"):
        path = self.sandbox.write(f"{out}.yaml", config)
        return self.simulate("--config", path, "--out", self.folder / out, *arguments, label=out)
