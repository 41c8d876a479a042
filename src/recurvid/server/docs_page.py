"""The API's description as a page that needs nothing from elsewhere: no scripts, no fonts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
summary { cursor: pointer; padding: .4rem; overflow-wrap: anywhere; }
summary:hover { background: var(--soft); }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0; }
details > div { padding: 0 1rem .5rem; }
b.method { display: inline-block; min-width: 4.2rem; }
code, pre { font: .9em/1.45 ui-monospace, monospace; }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; white-space: pre-wrap; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
td, th { text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  padding: .2rem .6rem .2rem 0; }
""".strip()
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
#: The only thing that the page may load is the style sheet inside it.
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'"


def page(description: dict[str, Any]) -> str:
    """The whole page out of an OpenAPI description."""
    info = description["info"]
    body = [f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>"]
    body += [f"<p>{_inline(text)}</p>" for text in info["description"].strip().split("\n\n")]
    body.append("<p>For programs: <a href='/openapi.json'>openapi.json</a>. In the examples, ")
    body.append("<code>$SERVER</code> is this server's address and <code>$JOB</code> the name of ")
    body.append("a job; they are run where <code>examples/valley.jpg</code> is.</p>")
    tags: dict[str, list[str]] = {}
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            shown = "".join(_operation(method.upper(), path, operation, description))
            tags.setdefault(operation["tags"][0], []).append(shown)
    for tag, operations in tags.items():
        body += [f"<h2>{escape(tag)}</h2>", *operations]
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    title = f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style>"
    content = "\n".join(body)
    return f"<!doctype html><html lang='en'><head>{head}{title}</head><body>{content}</body></html>"


def _inline(text: str) -> str:
    """Text with `code` in it."""
    parts = escape(" ".join(text.split())).split("`")
    return "".join(f"<code>{p}</code>" if n % 2 else p for n, p in enumerate(parts))


def _operation(
    method: str, path: str, operation: dict[str, Any], description: dict[str, Any]
) -> Iterator[str]:
    yield f"<details id='{escape(operation['operationId'])}'><summary><b class='method'>{method}"
    yield f"</b> <code>{escape(path)}</code> {escape(operation['summary'])}</summary><div>"
    yield f"<p>{_inline(operation.get('description', ''))}</p>"
    for sample in operation.get("x-codeSamples", ()):
        yield f"<p>{escape(sample['label'])}:</p><pre>{escape(sample['source'])}</pre>"
    rows = [
        (p["name"], p["in"], _kind(p["schema"]), p.get("description", ""))
        for p in operation.get("parameters", ())
        if p["in"] != "path"
    ]
    rows += _body_rows(operation, description)
    if rows:
        yield "<table><tr><th>name<th>in<th>takes<th></tr>"
        for name, where, kind, about in rows:
            yield f"<tr><td><code>{escape(name)}</code><td>{where}<td>{escape(kind)}"
            yield f"<td>{_inline(about)}</tr>"
        yield "</table>"
    yield "<p>Answers: "
    yield "; ".join(f"<b>{c}</b> {_inline(r['description'])}" for c, r in
                    operation["responses"].items())  # fmt: skip
    yield "</p></div></details>"


def _body_rows(
    operation: dict[str, Any], description: dict[str, Any]
) -> Iterator[tuple[str, str, str, str]]:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        yield from _fields(content["schema"], "body", description)


def _fields(
    schema: dict[str, Any], where: str, description: dict[str, Any]
) -> Iterator[tuple[str, str, str, str]]:
    schema = _followed(schema, description)
    for name, field in schema.get("properties", {}).items():
        inner = next((o for o in field.get("anyOf", ()) if "$ref" in o), field)
        if "$ref" in inner:
            yield name, where, "an object", "its fields:"
            yield from _fields(inner, name, description)
        else:
            needed = "Needed. " if name in schema.get("required", ()) else ""
            yield name, where, _kind(field), needed + field.get("description", "")


def _followed(schema: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return description["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def _kind(schema: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = "a file" if schema.get("format") == "binary" else str(schema.get("type", "any"))
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None or high is not None:
        kind += f" from {low if low is not None else '-∞'} to {high if high is not None else '∞'}"
    return kind
