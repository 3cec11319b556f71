"""Makes docs/first_light.png of what `online-guidance generate` wrote: each picture beside its schedule.

online-guidance generate "two red circles above a blue square" "three green triangles" \\
    'a yellow sign saying "CAB"'
python docs/first_light.py outputs
"""

import sys
from pathlib import Path

from PIL import Image

HEIGHT = 420


def main(folder: Path) -> None:
    rows = []
    for plot in sorted(folder.glob("*_schedule.png")):
        picture = Image.open(plot.with_name(plot.name.replace("_schedule", ""))).convert("RGB")
        schedule = Image.open(plot).convert("RGB")
        picture = picture.resize((HEIGHT, HEIGHT), Image.Resampling.NEAREST)
        schedule = schedule.resize((schedule.width * HEIGHT // schedule.height, HEIGHT), Image.Resampling.LANCZOS)
        rows.append((picture, schedule))
    sheet = Image.new("RGB", (max(p.width + s.width for p, s in rows) + 20, (HEIGHT + 10) * len(rows) - 10), "white")
    for i, (picture, schedule) in enumerate(rows):
        sheet.paste(picture, (0, i * (HEIGHT + 10)))
        sheet.paste(schedule, (picture.width + 20, i * (HEIGHT + 10)))
    sheet.save(Path(__file__).with_name("first_light.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
