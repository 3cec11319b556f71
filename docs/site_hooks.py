"""What mkdocs is told besides mkdocs.yml: the site has pages of the root too, and links work there as on GitHub."""

import logging
import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES_OF_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")
log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Files, config: Any) -> Files:
    """The pages of the root, under their names in the site."""
    for source, name in PAGES_OF_ROOT.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links between files of the repository, as they are between pages of the site; what is no page is at GitHub."""
    of_root = {name: source for source, name in PAGES_OF_ROOT.items()}
    name = page.file.src_uri
    source = PurePosixPath(of_root.get(name, f"docs/{name}"))

    def moved(link: re.Match) -> str:
        target = normpath(source.parent / link[1])
        if not (ROOT / target).exists():  # no link, for one a call in code; or one that mkdocs complains of
            return link[1]
        inside = PAGES_OF_ROOT.get(target, target.removeprefix("docs/"))
        file = None if inside == target else files.get_file_from_path(inside)
        if file is None or file.inclusion.is_excluded():
            return f"{config.repo_url}/blob/main/{target}"
        return relpath(inside, PurePosixPath(name).parent)

    return LINK.sub(moved, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> None:
    """A public name without a docstring is left out of the reference without a word: here is the word."""
    room = page.file.src_uri.removeprefix("api/").removesuffix(".md")
    if room == page.file.src_uri.removesuffix(".md"):
        return
    public = re.search(r"^__all__ = \[(.*?)\]", (ROOT / room / "__init__.py").read_text(encoding="utf-8"), re.M | re.S)
    shown = re.findall(rf'id="{room}\.(?:[a-z_]+\.)*(\w+)"', html)
    for name in re.findall(r'"(\w+)"', public[1] if public else ""):
        if name not in shown:
            log.warning("docs/%s does not show `%s`: no docstring, or a module of that name.", page.file.src_uri, name)
