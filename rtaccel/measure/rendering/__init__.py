"""What reports are drawn with: charts as SVG, the parts of the HTML page, its style, and tables.

Data flows from `measure.result` and `measure.stages` to text; nothing here measures.
"""
