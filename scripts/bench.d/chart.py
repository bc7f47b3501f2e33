"""The chart: messages per CPU-second of the service and of the node worker, as a self-contained SVG."""

from html import escape

import rows
from report import middle, shown, values
from rows import NODE, SERVICE

SHOWN = ("usage", "usage-1", "list-5", "list-50", "list-300", "mixed")
COLOURS = {SERVICE: "#2f6fde", NODE: "#9aa4b2"}
LEFT, WIDTH, BAR, GAP, TOP = 330, 420, 18, 16, 64


def svg(result):
    """One scale per load, because the loads differ by more than the contenders."""
    runs = result["runs"]
    groups = [row for row in rows.ROWS if row.name in SHOWN and values(runs, row.name, SERVICE, "messages_per_cpu_second")]
    parts, y = [], TOP
    for row in groups:
        pairs = [(name, middle(runs, row.name, name, "messages_per_cpu_second")) for name in (SERVICE, NODE)]
        most = max(value for _, value in pairs if value)
        for contender, value in pairs:
            if not value:
                continue
            width = max(value / most * WIDTH, 1)
            label = f"{shown(value)}"
            if contender == NODE:
                label += f"   (1 : {shown(most / value)})"
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[contender]}"/>')
            parts.append(f'<text x="{LEFT + width + 6:.1f}" y="{y + 13}">{escape(label)}</text>')
            if contender == SERVICE:
                parts.append(f'<text x="{LEFT - 10}" y="{y + 22}" text-anchor="end">{escape(row.title)}</text>')
            y += BAR + 2
        y += GAP
    legend = "".join(
        f'<rect x="{LEFT + 130 * at}" y="38" width="12" height="12" fill="{colour}"/>'
        f'<text x="{LEFT + 130 * at + 18}" y="48">{escape(name)}</text>'
        for at, (name, colour) in enumerate(COLOURS.items())
    )
    machine = result["machine"]
    foot = f"{machine['cores']} cores of {machine['cpu']}, {result['date'][:10]}; medians; the queue is a fake SQS"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {y + 24}" font-family="sans-serif" '
            'font-size="13" fill="#1c2330" role="img">',
            "<title>Messages per CPU-second: the service and the node worker</title>",
            f'<rect width="900" height="{y + 24}" fill="#ffffff"/>',
            '<text x="16" y="26" font-size="16" font-weight="bold">Messages per CPU-second</text>',
            legend,
            *parts,
            f'<text x="16" y="{y + 10}" font-size="11" fill="#5b6575">{escape(foot)}</text>',
            "</svg>",
            "",
        ]
    )
