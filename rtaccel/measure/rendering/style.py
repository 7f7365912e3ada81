"""The style sheet of the HTML report: one set of rules, two sets of colors."""

from __future__ import annotations

_LIGHT = {
    "page": "#f9f9f7", "card": "#ffffff", "ink": "#16171a", "soft": "#5b5f66", "rule": "#e3e3de", "grid": "#ecece8",
    "good": "#0a7d33", "good-bg": "#e5f5ea", "bad": "#b42424", "bad-bg": "#fdeaea", "open": "#8a5a00",
    "open-bg": "#fdf3da", "budget": "#b42424",
    "s1": "#2a78d6", "s2": "#eb6834", "s3": "#1baf7a", "s4": "#c98500", "s5": "#4a3aa7", "s6": "#d9548c",
    "s7": "#008300", "s8": "#7b7f87",
}  # fmt: skip

_DARK = {
    "page": "#111214", "card": "#1a1b1e", "ink": "#eceded", "soft": "#a2a6ad", "rule": "#2f3136", "grid": "#26282c",
    "good": "#5fd08a", "good-bg": "#15301f", "bad": "#ff8f8f", "bad-bg": "#3a1a1c", "open": "#f2c14e",
    "open-bg": "#342a10", "budget": "#ff8f8f",
    "s1": "#4b94ee", "s2": "#e8713c", "s3": "#23a878", "s4": "#d39a1e", "s5": "#9a8ff0", "s6": "#de6396",
    "s7": "#3fa33f", "s8": "#9a9ea6",
}  # fmt: skip

_RULES = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 36px 24px 56px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 16px; margin: 0 0 2px; }
p { margin: 0 0 8px; max-width: 100ch; }
.soft, .hint { color: var(--soft); }
.hint { font-size: 13px; margin-bottom: 12px; max-width: none; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 20px 22px;
  margin-top: 18px; }
.banner { display: flex; gap: 18px; align-items: center; border-radius: 10px; padding: 16px 22px; margin-top: 20px; }
.banner strong { font-size: 21px; letter-spacing: 0.01em; white-space: nowrap; }
.banner span { font-size: 14px; color: var(--ink); }
.PASS { color: var(--good); } .FAIL { color: var(--bad); } .UNDECIDED { color: var(--open); }
.banner.PASS { background: var(--good-bg); } .banner.FAIL { background: var(--bad-bg); }
.banner.UNDECIDED { background: var(--open-bg); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 8px 9px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-size: 12.5px; font-weight: 600; color: var(--soft); vertical-align: bottom; }
tbody tr:last-child > * { border-bottom: 0; }
th:first-child, td:first-child, th.text, td.text { text-align: left; }
td.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 13em; } td.few { min-width: 8em; }
td .range { display: block; font-size: 12px; color: var(--soft); }
td b { font-weight: 650; }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 9px; }
svg { display: block; width: 100%; height: auto; }
.narrow + .wide, .narrow ~ .narrow { margin-top: 18px; }
.grid { stroke: var(--grid); stroke-width: 1; } .base { stroke: var(--rule); stroke-width: 1; }
.bars { fill-opacity: 0.85; } .mark { stroke-width: 2; }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.whisker { stroke: var(--soft); stroke-width: 1.5; } .roof { stroke: var(--ink); stroke-width: 1.5; }
.dot { fill: var(--s1); fill-opacity: 0.8; stroke: var(--card); stroke-width: 1; }
.budget { stroke: var(--budget); stroke-width: 1.5; stroke-dasharray: 5 4; } .limit { fill: var(--budget); }
.behind { fill: var(--card); fill-opacity: 0.85; }
text { font-size: 12px; fill: var(--soft); } text.name { font-size: 13px; font-weight: 600; fill: var(--ink); }
text.mark-label { font-size: 11px; } text.budget-label { fill: var(--budget); font-weight: 600; }
text.budget-label, text.name { paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 5px 22px; margin: 8px 0 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
pre { margin: 8px 0 0; padding: 12px 14px; background: var(--page); border: 1px solid var(--rule); border-radius: 8px;
  font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
ul { margin: 8px 0 0; padding-left: 20px; } li { margin-bottom: 4px; }
footer { margin-top: 22px; font-size: 13px; color: var(--soft); }
.narrow { display: none; }
@media (max-width: 980px) {
  table.stacks, table.stacks tbody, table.stacks tr, table.stacks td { display: block; text-align: left; }
  table.stacks thead, table.stacks td:empty { display: none; }
  table.stacks tr { border-bottom: 1px solid var(--rule); padding: 6px 0; }
  table.stacks td { border: 0; padding: 2px 4px; white-space: normal; overflow-wrap: anywhere; }
  table.stacks td[data-label]:not([data-label=""])::before { content: attr(data-label) ": "; color: var(--soft); }
  table.stacks td:not(:first-child) .range { display: inline; margin-left: 6px; }
}
@media (max-width: 720px) {
  .wide { display: none; } .narrow { display: block; }
  main { padding: 20px 10px 40px; } section { padding: 14px 12px; }
  .banner { flex-wrap: wrap; gap: 4px 14px; padding: 12px; } .banner span { overflow-wrap: anywhere; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 6px; }
}
@media print { .wide { display: block; } .narrow { display: none; } body { background: #fff; } section { break-inside: avoid; } }
"""


def style_sheet() -> str:
    """Follows the reader's color scheme; `data-theme="light"` or `"dark"` on the root element overrules it."""
    dark = _variables(_DARK) + "color-scheme:dark;"
    return (
        f":root{{{_variables(_LIGHT)}color-scheme:light;}}"
        f'@media (prefers-color-scheme:dark){{:root:not([data-theme="light"]){{{dark}}}}}'
        f':root[data-theme="dark"]{{{dark}}}' + _RULES
    )


def _variables(colors: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colors.items())
