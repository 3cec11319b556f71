"""What a batch made, to look at: one page, and a contact sheet for every prompt."""

import os
from collections import defaultdict
from pathlib import Path

import jinja2
from PIL import Image, ImageDraw

from .manifest import Manifest, inside, publish, write_text

THUMB = 256  # pixels of a picture on a contact sheet
STYLE = """
:root { color-scheme: light dark; --line: light-dark(#e2e8f0, #334155); --soft: light-dark(#64748b, #94a3b8); }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; font: 15px/1.5 system-ui, sans-serif;
  background: light-dark(#f8fafc, #0f172a); color: light-dark(#0f172a, #e2e8f0); }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere; }
p, small, caption { color: var(--soft); }
table { border-collapse: collapse; } th, td { padding: .35rem .75rem .35rem 0; text-align: left; font-weight: normal; }
th { color: var(--soft); } tr + tr { border-top: 1px solid var(--line); } td small { margin-left: .4rem; }
.part td:first-child { color: var(--soft); padding-left: 1rem; } .wide { overflow-x: auto; }
.pictures tr { border: 0; } .pictures td { padding: 0 .5rem .5rem 0; }
.pictures th { font-size: .85rem; padding: 0 .5rem .35rem 0; }
img { display: block; width: 12rem; max-width: 40vw; height: auto; border-radius: 8px; border: 1px solid var(--line);
  image-rendering: pixelated; }
a { color: inherit; }
"""
PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src 'self'; style-src 'unsafe-inline'">
<title>Gallery</title><style>{{ style | safe }}</style>
<h1>Gallery</h1>
<p>{{ prompts | length }} prompts, {{ count }} pictures.
{% for key, value in settings.items() %} {{ key }}: {{ value }}.{% endfor %}</p>
{% for prompt in prompts %}
<h2>{{ prompt.text }}</h2>
<p>{% if prompt.category %}{{ prompt.category }} · {% endif %}
<a href="{{ prompt.sheet | urlencode }}">contact sheet</a></p>
<div class="wide"><table class="pictures">
<tr>{% for method in methods %}<th>{{ method }}</th>{% endfor %}</tr>
{% for seed, files in prompt.rows %}
<tr>{% for file in files %}<td>{% if file %}<a href="{{ file | urlencode }}"><img loading="lazy" \
src="{{ file | urlencode }}" alt="seed {{ seed }}" title="seed {{ seed }}"></a>{% endif %}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endfor %}
</html>
""")


def write(folder: Path) -> Path:
    """Writes ``index.html`` and those contact sheets (``contact/``) that are older than one of their pictures; returns
    the page's path. Reads the manifest, and changes nothing in it."""
    with Manifest(folder, read_only=True) as manifest:
        prompts, settings = manifest.prompts(), manifest.settings()
        images = [image for image in manifest.images() if (folder / image.file).is_file()]
    methods = list(dict.fromkeys(image.method for image in images))
    grids: dict[str, dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for image in images:
        inside(folder, image.file)
        grids[image.prompt][image.seed][image.method] = image.file
    shown = []
    for prompt in (prompt for prompt in prompts if prompt.text in grids):
        rows = [(seed, [files.get(m) for m in methods]) for seed, files in sorted(grids[prompt.text].items())]
        first = next(file for _, files in rows for file in files if file)
        sheet = f"contact/{Path(first).parent.name}.png"
        _sheet(folder, folder / sheet, methods, rows)
        shown.append({"text": prompt.text, "category": prompt.category, "sheet": sheet, "rows": rows})
    page = PAGE.render(style=STYLE, prompts=shown, methods=methods, settings=settings, count=len(images))
    write_text(folder / "index.html", page)
    return folder / "index.html"


def _sheet(folder: Path, target: Path, methods: list[str], rows: list[tuple[int, list[str | None]]]) -> None:
    paths = [[file and folder / file for file in files] for _, files in rows]
    newest = max(path.stat().st_mtime for line in paths for path in line if path)
    if target.is_file() and target.stat().st_mtime >= newest:
        return
    sheet = Image.new("RGB", (56 + len(methods) * (THUMB + 8), 24 + len(rows) * (THUMB + 8)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, method in enumerate(methods):
        draw.text((56 + column * (THUMB + 8), 6), method, fill="black")
    for row, (seed, _) in enumerate(rows):
        draw.text((4, 24 + row * (THUMB + 8)), f"seed\n{seed}", fill="black")
        for column, path in enumerate(paths[row]):
            if path is None:
                continue
            picture = Image.open(path).convert("RGB")
            scale = THUMB / max(picture.size)
            method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
            picture = picture.resize([max(1, round(side * scale)) for side in picture.size], method)
            sheet.paste(picture, (56 + column * (THUMB + 8), 24 + row * (THUMB + 8)))
    target.parent.mkdir(exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    sheet.save(partial, "PNG")
    publish(partial, target)
