"""The files that come from others are the ones that were looked at, and are served."""

import hashlib
from pathlib import Path

import posthouse.web
from tests.support.house import house
from tests.support.visitors import visitor

STATIC = Path(posthouse.web.__file__).parent / "static"


def sums() -> dict[str, str]:
    lines = (STATIC / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def test_vendored_files_are_unchanged_and_have_their_licence() -> None:
    known = sums()
    for name, digest in known.items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest, name
    ours = {"app.css", "posthouse.svg", "SHA256SUMS"}
    assert {path.name for path in STATIC.iterdir()} == known.keys() | ours
    assert {"htmx.LICENSE.txt", "pico.LICENSE.txt"} <= known.keys()


async def test_what_the_pages_name_is_served_to_strangers(tmp_path: Path) -> None:
    async with house(tmp_path / "data", background=False) as home, visitor(home) as stranger:
        page = (await stranger.look("/sign-in")).text
        named = [part.partition('"')[0] for part in page.split('="/static/')[1:]]
        assert len(named) == 4
        for name in named:
            answer = await stranger.http.get(f"/static/{name}")
            assert (name, answer.status_code) == (name, 200)
            again = await stranger.http.get(f"/static/{name}", headers={"if-none-match": answer.headers["etag"]})
            assert (name, again.status_code) == (name, 304)
            assert answer.headers["cache-control"] == "no-cache"
        assert "://" not in page.replace("http://www.w3.org", "")
