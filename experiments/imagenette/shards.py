"""A folder of class folders as WebDataset shards, as ``data=webdataset`` and timm read them.

    python experiments/imagenette/shards.py FOLDER SHARDS [--per-shard 200]

Images stay byte for byte what they are, in the order of the folder. Beside the shards: timm's ``_info.json``, and
``classnames.txt``.
"""

import argparse
import io
import tarfile
from pathlib import Path

from lwdc.data import ImageFolder
from lwdc.files import write_json, write_text


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--per-shard", type=int, default=200)
    given = parser.parse_args()
    given.shards.mkdir(parents=True)
    splits = {split: pack(given.folder, split, given.shards, given.per_shard) for split in ("train", "val")}
    write_json(given.shards / "_info.json", {"splits": splits})


def pack(folder: Path, split: str, out: Path, per_shard: int) -> dict[str, object]:
    """The split's shards, and what timm's ``_info.json`` says of them."""
    source = ImageFolder(folder).source(split)
    write_text(out / "classnames.txt", "".join(f"{name}\n" for name in source.class_names))
    labels = source.labels.tolist()
    starts = range(0, len(labels), per_shard)
    lengths = {}
    for shard, start in enumerate(starts):
        places = range(start, min(start + per_shard, len(labels)))
        name = f"{split}-{shard:04d}.tar"
        with tarfile.open(out / name, "w") as archive:
            for place in places:
                key = f"{source.class_names[labels[place]]}/{Path(source.name(place)).stem.replace('.', '_')}"
                _add(archive, f"{key}.jpg", Path(source.name(place)).read_bytes())
                _add(archive, f"{key}.cls", str(labels[place]).encode())
        lengths[name] = len(places)
    print(f"{split}: {len(labels)} images in {len(lengths)} shards")
    return {
        "name": split,
        "num_samples": len(labels),
        "filenames": list(lengths),
        "shard_lengths": list(lengths.values()),
    }


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    main()
