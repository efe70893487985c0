"""Export again and again in one process, without training: does memory stay flat?"""

import gc
import json
import tempfile

import torch
from soak import open_files, resident, tiny

from lwdc.architecture import Architecture
from lwdc.export import FORMATS, export_all

EXPORTS = 60


def main() -> None:
    torch.set_num_threads(1)
    model = tiny().eval()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, EXPORTS + 1):
            formats = [list(FORMATS)[number % len(FORMATS)]]
            export_all(folder, model, Architecture({}), formats=formats, model=model, input_size=(1, 8, 8))
            gc.collect()
            if number % 6 == 0:
                line = {"export": number, "rss_mib": round(resident() / 2**20, 2), "files": open_files()}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
