"use strict";
// Charts: BokehJS figures out of the page's data, drawn when they come into view.

const COARSE = window.matchMedia("(pointer: coarse)").matches;
const MARKERS = { o: "circle", s: "square", D: "diamond", "^": "triangle", v: "inverted_triangle",
  X: "x", P: "cross", "<": "hex" };
const OUTLINE = new Set(["x", "cross"]);
const figures = [];

function cssValue(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// In the dark, colours are mixed with white; ink takes the page's own.
function shade(colour) {
  if (colour === "#222222") return cssValue("--ink");
  if (document.documentElement.dataset.theme !== "dark") return colour;
  const parts = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return "#" + parts.map((x) => Math.round(x + (255 - x) * 0.32).toString(16).padStart(2, "0")).join("");
}

function extent(series, keys, pad, log) {
  let low = Infinity, high = -Infinity;
  for (const one of series) for (const key of keys) for (const x of one[key]) {
    if (x === null || (log && x <= 0)) continue;
    low = Math.min(low, x);
    high = Math.max(high, x);
  }
  if (!Number.isFinite(low)) return log ? [0.1, 1] : [0, 1];
  if (log) return [low / 1.4, high * 1.4];
  const room = (high - low || Math.abs(high) || 1) * pad;
  return [low - room, high + room];
}

// Bokeh takes NaN for a hole, the page's JSON has null.
const holes = (values) => values.map((x) => (x === null ? NaN : x));

function ranges(chart) {
  const { Range1d } = Bokeh;
  const value = extent(chart.series, ["value", "low", "high"], 0.06, chart.log);
  if (chart.zero) { value[0] = Math.min(value[0], 0); value[1] = Math.max(value[1], 0); }
  const along = chart.ticks.length
    ? [-0.55, chart.ticks.length - 0.45]
    : extent(chart.series, ["at"], 0.03, false);
  const make = ([start, end]) => new Range1d({ start, end });
  return chart.flip ? [make(value), make(along)] : [make(along), make(value)];
}

function height(chart) {
  if (chart.flip) return Math.max(230, 110 + 30 * chart.ticks.length);
  if (chart.ticks.some((name) => name.length > 8)) return chart.wide ? 400 : 360;
  return chart.wide ? 430 : 300;
}

function nameTicks(axis, chart, flip, width) {
  const overrides = new Map(chart.ticks.map((name, i) => [i, name]));
  const many = !flip && chart.ticks.length > Math.max(4, width / 38);
  const step = many ? Math.ceil(chart.ticks.length / (width / 38)) : 1;
  const shown = chart.ticks.map((_, i) => i).filter((i) => i % step === 0 || chart.ticks[i] === "final");
  axis.ticker = new Bokeh.FixedTicker({ ticks: chart.ticks.some((n) => n.length > 8) ? [...overrides.keys()] : shown });
  axis.major_label_overrides = overrides;
  if (!flip && chart.ticks.some((name) => name.length > 8)) axis.major_label_orientation = 0.75;
}

function drawSeries(p, chart, one) {
  const data = { at: holes(one.at), value: holes(one.value), low: holes(one.low), high: holes(one.high), text: one.text };
  if (one.refs) data.ref = one.refs;
  // Points have a source of their own: a line vanishes while a point of its source is pointed at.
  const source = new Bokeh.ColumnDataSource({ data });
  const pointed = new Bokeh.ColumnDataSource({ data });
  const field = (name) => ({ field: name });
  const [x, y] = chart.flip ? [field("value"), field("at")] : [field("at"), field("value")];
  const marker = MARKERS[one.marker] || "circle";
  const glyphs = [];
  const hasEnds = one.low.some((v) => v !== null);
  if (hasEnds && one.line && !chart.ticks.length) {
    glyphs.push([p.varea(field("at"), field("low"), field("high"), { source, fill_alpha: 0.16 }), "fill"]);
  } else if (hasEnds) {
    const ends = chart.flip
      ? [field("low"), field("at"), field("high"), field("at")]
      : [field("at"), field("low"), field("at"), field("high")];
    glyphs.push([p.segment(...ends, { source, line_width: 1.6, line_alpha: 0.75 }), "line"]);
  }
  if (one.line) glyphs.push([p.line(x, y, { source, line_width: 2 }), "line"]);
  let points = null;
  if (!one.line || one.at.length <= 60) {
    const size = one.refs ? (COARSE ? 9 : 7) : 7.5;
    points = p.scatter(x, y, { source: pointed, marker, size, fill_alpha: one.refs ? 0.55 : 1,
      line_alpha: one.refs ? 0.8 : 1, line_width: OUTLINE.has(marker) ? 2 : 1,
      nonselection_alpha: one.refs ? 0.3 : 1 });
    glyphs.push([points, "point"]);
  }
  const hover = points || glyphs[glyphs.length - 1][0];
  return { source: hover.data_source, glyphs, hover, colour: one.colour };
}

function paint(figure) {
  const ink = cssValue("--ink"), soft = cssValue("--soft"), line = cssValue("--line");
  const p = figure.plot;
  p.setv({ background_fill_color: null, border_fill_color: null, outline_line_color: line });
  for (const axis of p.xaxes.concat(p.yaxes)) {
    axis.setv({ axis_label_text_color: ink, major_label_text_color: soft, axis_line_color: soft,
      major_tick_line_color: soft, minor_tick_line_color: null });
  }
  for (const grid of p.xgrids.concat(p.ygrids)) grid.setv({ grid_line_color: line, grid_line_alpha: 0.7 });
  if (figure.zero) figure.zero.setv({ line_color: soft });
  for (const one of figure.series) {
    const colour = shade(one.colour);
    for (const [renderer, kind] of one.glyphs) {
      const set = kind === "fill" ? { fill_color: colour }
        : kind === "line" ? { line_color: colour } : { line_color: colour, fill_color: colour };
      for (const glyph of [renderer.glyph, renderer.nonselection_glyph, renderer.selection_glyph, renderer.muted_glyph]) {
        if (glyph && typeof glyph.setv === "function") glyph.setv(set);
      }
    }
    one.swatch.style.background = colour;
  }
}

function addLegend(element, chart, drawn) {
  chart.series.forEach((one, i) => {
    const button = document.createElement("button");
    const swatch = document.createElement("i");
    button.type = "button";
    button.append(swatch, one.label);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      const off = button.classList.toggle("off");
      button.setAttribute("aria-pressed", String(!off));
      for (const [renderer] of drawn[i].glyphs) renderer.visible = !off;
    });
    drawn[i].swatch = swatch;
    element.append(button);
  });
}

function drawChart(element, chart, openRollout) {
  const host = element.querySelector(".plot");
  const [x_range, y_range] = ranges(chart);
  const type = (log) => (log ? "log" : "linear");
  const p = Bokeh.Plotting.figure({
    sizing_mode: "stretch_width", height: height(chart), x_range, y_range,
    x_axis_type: type(chart.log && chart.flip), y_axis_type: type(chart.log && !chart.flip),
    tools: "pan,box_zoom,wheel_zoom,zoom_in,zoom_out,reset",
    toolbar_location: "above", min_border_right: 12,
  });
  p.toolbar.logo = null;
  // A finger that scrolls the page must not move a plot: there the buttons zoom, or a chosen tool.
  const find = (name) => p.toolbar.tools.find((tool) => tool.type === name) || null;
  p.toolbar.setv({ active_drag: COARSE ? null : find("BoxZoomTool"), active_scroll: null });
  const [along, across] = chart.flip ? [p.yaxes[0], p.xaxes[0]] : [p.xaxes[0], p.yaxes[0]];
  if (chart.ticks.length) nameTicks(along, chart, chart.flip, host.clientWidth);
  along.setv({ axis_label: chart.axis || null });
  across.setv({ axis_label: chart.unit || null });
  for (const axis of [along, across]) {
    axis.setv({ axis_label_text_font_style: "normal", axis_label_text_font_size: "12px",
      major_label_text_font_size: "11.5px" });
  }
  let zero = null;
  if (chart.zero) {
    zero = new Bokeh.Span({ location: 0, dimension: chart.flip ? "height" : "width", line_width: 1.2 });
    p.add_layout(zero);
  }
  const series = chart.series.map((one) => drawSeries(p, chart, one));
  const renderers = series.map((one) => one.hover);
  // On narrow screens a tooltip has no room: what is pointed at or tapped is read out below the names.
  const narrow = window.innerWidth < 760;
  p.add_tools(new Bokeh.HoverTool({ renderers, tooltips: narrow ? null : [["", "@text"]],
    point_policy: "snap_to_data", line_policy: "nearest", limit: 4 }));
  const readout = element.querySelector(".readout");
  const linked = series.some((one) => one.source.data.ref);
  if (narrow || linked) p.add_tools(new Bokeh.TapTool({ renderers }));
  for (const one of series) {
    const read = (indices) => {
      if (narrow && indices.length) readout.textContent = one.source.data.text[indices[0]];
    };
    one.source.inspect.connect(() => read(one.source.inspected.indices));
    one.source.selected.change.connect(() => {
      const { indices } = one.source.selected;
      read(indices);
      if (linked && indices.length) openRollout(one.source.data.ref[indices[0]]);
    });
  }
  const figure = { plot: p, series, zero };
  const legend = element.querySelector(".legend");
  addLegend(legend, chart, series);
  legend.hidden = series.length === 1 && chart.series[0].label === chart.title;
  paint(figure);
  figures.push(figure);
  Bokeh.Plotting.show(p, host);
  element.dataset.drawn = "true";
  element.figure = figure;
}

function repaint() {
  figures.forEach(paint);
}
