"""A document as one HTML file: styles and charts inside, no script, no request, light and dark, wide and narrow."""

from __future__ import annotations

from zero2r1.report.charts import STYLE
from zero2r1.report.document import Block, Cell, Document, Exchange, Figure, Listing, Notes, Table, Text
from zero2r1.report.markup import escape

SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,'Noto Sans CJK KR',sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"

CSS = f"""
:root{{color-scheme:light dark;--ink:#1c2127;--quiet:#5a636e;--line:#dfe3e8;--ground:#fff;--tint:#f5f7f9;--good:#00664f;--bad:#b3380a;
--warn:#fff8e6;--warn-line:#d9a514}}
@media (prefers-color-scheme:dark){{:root{{--ink:#e4e8ec;--quiet:#a2abb6;--line:#2d343c;--ground:#14181c;--tint:#1b2026;--good:#44c9a0;
--bad:#f2935c;--warn:#262114;--warn-line:#a17d1c}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--ground);color:var(--ink);font:16px/1.55 {SANS};-webkit-text-size-adjust:100%}}
main{{max-width:888px;margin:0 auto;padding:40px 24px 80px}}
h1{{font-size:30px;line-height:1.2;margin:0 0 12px;letter-spacing:-.01em;overflow-wrap:anywhere}}
h2{{font-size:21px;line-height:1.3;margin:56px 0 14px;padding-top:14px;border-top:1px solid var(--line)}}
h3{{font-size:16px;line-height:1.4;margin:30px 0 4px}}
p{{margin:0 0 10px;max-width:44em}}
.status{{font-weight:600;color:var(--quiet)}}.good{{color:var(--good)}}.bad{{color:var(--bad)}}.quiet,figcaption,.caption{{color:var(--quiet)}}
.status.good{{color:var(--good)}}.status.bad{{color:var(--bad)}}
figure{{margin:26px 0 34px}}figcaption,.caption{{font-size:14px;line-height:1.45;max-width:52em}}figure h3{{margin:0 0 8px}}
figcaption{{margin-top:6px}}
svg.chart{{display:block;max-width:100%;height:auto}}svg.narrow{{display:none}}
.scroll{{overflow-x:auto;margin:14px 0 10px}}
table{{border-collapse:collapse;font-size:14.5px;line-height:1.45;font-variant-numeric:tabular-nums;min-width:60%}}
th,td{{padding:7px 0 7px 18px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap;vertical-align:top}}
thead th{{vertical-align:bottom;white-space:normal}}table.many{{font-size:13px}}.many th,.many td{{padding-left:10px}}
table.most{{font-size:12px}}.most th,.most td{{padding-left:7px}}
th:first-child,td:first-child{{text-align:left;padding-left:0}}thead th{{font-weight:600;border-bottom-color:var(--quiet)}}
tbody th{{font-weight:400}}.scroll tbody th:first-child,.scroll thead th:first-child{{position:sticky;left:0;background:var(--ground)}}
table.prose{{width:100%}}.prose th,.prose td{{text-align:left;white-space:normal}}.prose td:first-child{{white-space:nowrap}}
td.good,td.bad{{font-weight:600}}td.quiet{{color:var(--quiet)}}
pre{{font:13.5px/1.55 {MONO};white-space:pre-wrap;overflow-wrap:anywhere;background:var(--tint);margin:8px 0;padding:12px 14px;
border-radius:6px}}
pre.question{{background:none;padding:2px 0 2px 14px;border-left:3px solid var(--line);border-radius:0;color:var(--quiet)}}
.note{{font-size:14px;margin:0 0 4px;max-width:56em}}
.notes{{background:var(--warn);border-left:4px solid var(--warn-line);padding:14px 20px 14px 22px;border-radius:0 6px 6px 0;margin:0}}
.notes li{{margin:5px 0}}.notes ul{{margin:0;padding-left:1.1em}}
summary{{cursor:pointer;font-weight:600;margin:14px 0}}
@media (max-width:640px){{main{{padding:24px 16px 60px}}h1{{font-size:25px}}svg.wide{{display:none}}svg.narrow{{display:block}}
.scroll tbody th:first-child{{white-space:normal;min-width:7.5em}}
table.prose thead{{display:none}}.prose tr{{display:block;border-bottom:1px solid var(--line);padding:9px 0}}
.prose td{{display:block;border:0;padding:1px 0}}.prose td:empty{{display:none}}
.prose td[data-column]:before{{content:attr(data-column) ": ";color:var(--quiet)}}}}
@media print{{body{{font-size:12px}}main{{max-width:none;padding:0}}h2,h3{{break-after:avoid}}figure,.exchange{{break-inside:avoid}}}}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What the browser may load and run: nothing. A second wall behind the escaping of what models wrote."""


def render_page(document: Document) -> str:
    """``report.html``."""
    title = escape(document.title)
    status = f'<p class="status {document.look}">{escape(document.status)}</p>'
    head = f"<h1>{title}</h1>{status}" + "".join(f"<p>{escape(line)}</p>" for line in document.lead)
    sections = "\n".join(
        f"<section><h2>{escape(section.title)}</h2>\n{''.join(_block(block) for block in section.blocks)}</section>"
        for section in document.sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>{CSS}{STYLE}</style></head>\n<body><main><header>{head}</header>\n{sections}\n</main></body></html>\n"
    )


def _block(block: Block) -> str:
    match block:
        case Text():
            return f'<p class="quiet">{escape(block.text)}</p>' if block.quiet else f"<p>{escape(block.text)}</p>"
        case Table():
            return _table(block)
        case Figure():
            sizes = (("wide", block.wide), ("narrow", block.narrow))
            charts = "".join(svg.replace('class="chart"', f'class="chart {size}"', 1) for size, svg in sizes)
            return f"<figure><h3>{escape(block.title)}</h3>{charts}<figcaption>{escape(block.caption)}</figcaption></figure>\n"
        case Exchange():
            return _exchange(block)
        case Listing():
            title, text = escape(block.title), f"<pre>{escape(block.text)}</pre>"
            return f"<details><summary>{title}</summary>{text}</details>\n" if block.folded else f"<h3>{title}</h3>{text}\n"
        case Notes():
            return f'<div class="notes"><ul>{"".join(f"<li>{escape(sentence)}</li>" for sentence in block.sentences)}</ul></div>\n'


def _table(block: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in block.columns)
    thead = f"<thead><tr>{head}</tr></thead>" if any(block.columns) else ""
    caption = f'<p class="caption">{escape(block.caption)}</p>' if block.caption else ""
    rows = "\n".join(f"<tr>{''.join(_cell(cell, i, block) for i, cell in enumerate(row))}</tr>" for row in block.rows)
    columns = len(block.columns)
    kind = ' class="prose"' if block.prose else ' class="many most"' if columns > 8 else ' class="many"' if columns > 6 else ""
    return f'<div class="scroll"><table{kind}>{thead}<tbody>{rows}</tbody></table></div>{caption}\n'


def _cell(cell: Cell, place: int, block: Table) -> str:
    if place == 0 and not block.prose:
        return f'<th scope="row">{escape(cell.text)}</th>'
    lines = [escape(line) for line in cell.text.split("\n")]
    lines = [f"<b>{line}</b>" if i in cell.strong else line for i, line in enumerate(lines)]
    look = f' class="{cell.look}"' if cell.look else ""
    stacked = block.prose and len(block.columns) > 3 and place > 0  # where rows are stacked, these cells need their names
    named = f' data-column="{escape(block.columns[place])}"' if stacked else ""
    return f"<td{look}{named}>{'<br>'.join(lines)}</td>"


def _exchange(block: Exchange) -> str:
    parts = [f"<h3>{escape(block.title)}</h3>"]
    parts += [f'<p class="note quiet">{escape(block.rule)}</p>'] if block.rule else []
    parts += [f'<p class="note {block.look}">{escape(block.note)}</p>'] if block.note else []
    parts += [f'<pre class="question">{escape(block.question)}</pre>'] if block.question else []
    parts += [f"<pre>{escape(block.response)}</pre>"] if block.response is not None else []
    return f'<div class="exchange">{"".join(parts)}</div>\n'
