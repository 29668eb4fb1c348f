"use strict";
// Puts the page together: theme, charts as they come into view, tables as they are opened, browsers.

const data = JSON.parse(document.getElementById("data").textContent);
const browsers = new Map();

function setTheme(name) {
  document.documentElement.dataset.theme = name;
}
const dark = window.matchMedia("(prefers-color-scheme: dark)");
setTheme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => { setTheme(dark.matches ? "dark" : "light"); repaint(); });
document.getElementById("theme").addEventListener("click", () => {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  repaint();
});

const MARGIN = 400;  // pixels beyond the window that are drawn already
function draw(target) {
  const { run, chart, table, overview } = target.dataset;
  if (overview !== undefined) drawTable(target, data.overview);
  else if (table !== undefined) drawTable(target, data.runs[run].tables[table]);
  else if (chart !== undefined) {
    drawChart(target, data.runs[run].charts[chart], (id) => {
      const browser = browsers.get(run);
      if (browser && browser.find(id)) browser.element.scrollIntoView({ block: "start" });
    });
  }
}
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    draw(target);
  }
}, { rootMargin: `${MARGIN}px` });

for (const element of document.querySelectorAll(".browser")) {
  browsers.set(element.dataset.run, new Browser(element, data.runs[element.dataset.run].rollouts));
}
// What is in sight is drawn at once: an observer speaks with the next frame, and a browser without a
// window, as in a print or a dump of the page, may draw none.
for (const element of document.querySelectorAll(".chart, .table")) {
  const { top, width } = element.getBoundingClientRect();
  if (width && top < innerHeight + MARGIN) draw(element);
  else seen.observe(element);
}
