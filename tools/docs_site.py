"""What mkdocs does beside its own when it builds the site; see mkdocs.yml.

The files for readers at the top of the repository become pages, links between
these and docs/ are mended, and when all is built every link is followed: mkdocs
itself does not look at anchors in all of its versions.
"""

import html.parser
import os
import pathlib
import urllib.parse

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def on_files(files, config):
    """Adds the pages that are not in docs/. README.md is the first page."""
    for name in TOP:
        files.append(
            File(name, str(ROOT), config.site_dir, config.use_directory_urls)
        )
    return files


def on_page_markdown(markdown, page, **kwargs):
    """On the site all pages are in one folder."""
    old, new = ("docs/", "") if page.file.src_uri in TOP else ("../", "")
    return markdown.replace(f"]({old}", f"]({new}")


def on_post_build(config):
    """Fails if a link or a picture of the site leads nowhere."""
    site = pathlib.Path(config.site_dir)
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    broken = [
        f"{path.relative_to(site)}: {link}"
        for path, page in pages.items()
        for link in page.links
        if not _leads_somewhere(site, path, link, pages)
    ]
    if broken:
        raise PluginError("Broken links:\n  " + "\n  ".join(broken))
    print(f"{len(pages)} pages, every link followed: {site / 'index.html'}")


def _leads_somewhere(site, path, link, pages):
    """Whether a link of the page at `path` has a target.

    Links to other sites are not followed.
    """
    address = urllib.parse.urlsplit(link)
    if address.scheme or address.netloc:
        return True
    target = path
    if address.path:
        name = urllib.parse.unquote(address.path)
        folder = site if name.startswith("/") else path.parent
        target = pathlib.Path(os.path.normpath(f"{folder}/{name}"))
    if address.fragment and target in pages:
        return urllib.parse.unquote(address.fragment) in pages[target].anchors
    return target.exists()


class Page(html.parser.HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors.add(attributes.get("id"))
        link = attributes.get({"a": "href", "img": "src"}.get(tag))
        if link:
            self.links.append(link)
