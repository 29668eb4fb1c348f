"use strict";
// The rollout browser. All text of rollouts is set as text, never as HTML.

const MOST_LISTED = 300;
const VERDICT_WORDS = { correct: "correct", wrong: "wrong", no_answer: "no answer", timeout: "timed out" };

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

class Browser {
  constructor(element, sources) {
    this.element = element;
    this.sources = sources;
    this.of = (name) => element.querySelector(name);
    this.source = sources[0];
    this.shown = [];
    this.current = null;
    const sourceSelect = this.of(".f-source");
    sources.forEach((source, i) => sourceSelect.append(new Option(source.label, String(i))));
    sourceSelect.closest("label").hidden = sources.length < 2;
    sourceSelect.addEventListener("change", () => this.choose(sources[Number(sourceSelect.value)]));
    for (const name of [".f-problem", ".f-verdict"]) this.of(name).addEventListener("change", () => this.filter());
    this.of(".f-text").addEventListener("input", () => this.filter());
    this.of(".list").addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        this.step(event.key === "ArrowDown" ? 1 : -1);
      }
    });
    this.choose(this.source);
  }

  choose(source) {
    this.source = source;
    this.of(".f-source").value = String(this.sources.indexOf(source));
    this.of(".source-note").textContent = source.note;
    const several = new Set(source.problems.map((p) => p.benchmark)).size > 1;
    this.name = (row) => (several ? `${row.benchmark}/` : "") + row.problem_id;
    const problem = this.of(".f-problem");
    problem.replaceChildren(new Option(`all ${source.problems.length}`, ""));
    source.problems.forEach((p, i) => problem.append(new Option(this.name(p), String(i))));
    const counts = new Map();
    for (const row of source.rows) counts.set(row.verdict, (counts.get(row.verdict) || 0) + 1);
    const verdict = this.of(".f-verdict");
    verdict.replaceChildren(new Option("all", ""));
    for (const [name, count] of counts) verdict.append(new Option(`${VERDICT_WORDS[name] || name} (${count})`, name));
    this.of(".f-text").value = "";
    this.filter();
  }

  filter() {
    const which = this.of(".f-problem").value;
    const problem = which === "" ? null : this.source.problems[Number(which)];
    const verdict = this.of(".f-verdict").value;
    const needle = this.of(".f-text").value.toLowerCase();
    this.shown = [];
    this.source.rows.forEach((row, i) => {
      if (problem && (row.problem_id !== problem.problem_id || row.benchmark !== problem.benchmark)) return;
      if (verdict && row.verdict !== verdict) return;
      if (needle && !row.pieces.map((p) => p[0]).join("").toLowerCase().includes(needle)
        && !row.answer.toLowerCase().includes(needle)) return;
      this.shown.push(i);
    });
    const list = this.of(".list");
    list.replaceChildren();
    for (const i of this.shown.slice(0, MOST_LISTED)) list.append(this.entry(i));
    const more = this.shown.length > MOST_LISTED ? `, the first ${MOST_LISTED} listed` : "";
    this.of(".found").textContent = `${this.shown.length.toLocaleString("en")} rollouts${more}`;
    if (this.shown.length && !this.shown.includes(this.current)) this.open(this.shown[0]);
    else if (!this.shown.length) this.of(".reading").replaceChildren(make("p", "note", "No rollout fits."));
    else this.mark();
  }

  entry(i) {
    const row = this.source.rows[i];
    const item = make("li");
    const button = make("button");
    button.type = "button";
    button.dataset.row = String(i);
    button.append(make("i", `dot ${row.verdict}`), make("span", "", `${this.name(row)} · ${row.sample}`),
      make("span", "answer", row.answer || "–"));
    button.title = VERDICT_WORDS[row.verdict] || row.verdict;
    button.addEventListener("click", () => this.open(i));
    item.append(button);
    return item;
  }

  mark() {
    for (const button of this.of(".list").querySelectorAll("button")) {
      const here = button.dataset.row === String(this.current);
      button.setAttribute("aria-current", String(here));
      if (here) {
        const list = this.of(".list"), item = button.parentElement;
        const top = item.offsetTop - list.offsetTop;
        if (top < list.scrollTop || top > list.scrollTop + list.clientHeight - 40) list.scrollTop = top - 60;
      }
    }
  }

  step(by) {
    const at = this.shown.indexOf(this.current);
    const next = this.shown[Math.max(0, Math.min(this.shown.length - 1, at + by))];
    if (next !== undefined) this.open(next);
  }

  // Opens a rollout by its id, wherever it came from: a point of a map, a neighbour.
  find(id) {
    for (const source of this.sources) {
      const i = source.rows.findIndex((row) => row.id === id);
      if (i < 0) continue;
      if (source !== this.source) this.choose(source);
      this.show(i);
      return true;
    }
    return false;
  }

  // Opens a row even where the filters hide it: they are then cleared.
  show(i) {
    if (!this.shown.includes(i)) {
      for (const name of [".f-problem", ".f-verdict", ".f-text"]) this.of(name).value = "";
      this.current = i;
      this.filter();
    }
    this.open(i);
  }

  open(i) {
    this.current = i;
    const row = this.source.rows[i];
    const reading = this.of(".reading");
    reading.replaceChildren(this.heading(row), this.meta(row), ...this.statement(row), this.response(row),
      this.key(row), ...this.neighbours(row));
    const anchor = reading.querySelector(".response .anchor");
    if (anchor) {
      const box = reading.querySelector(".response");
      box.scrollTop = Math.max(0, anchor.offsetTop - box.offsetTop - box.clientHeight / 2);
    }
    this.mark();
  }

  heading(row) {
    const head = make("div");
    const steps = make("div", "step");
    for (const [sign, by, words] of [["‹", -1, "Rollout before"], ["›", 1, "Next rollout"]]) {
      const button = make("button", "", sign);
      button.type = "button";
      button.setAttribute("aria-label", words);
      button.addEventListener("click", () => this.step(by));
      steps.append(button);
    }
    head.append(steps, make("h3", "", `${this.name(row)} · sample ${row.sample}`));
    return head;
  }

  meta(row) {
    const line = make("p", "meta");
    line.append(make("span", `verdict ${row.verdict}`, VERDICT_WORDS[row.verdict] || row.verdict));
    const add = (name, value) => {
      if (value) line.append(` · ${name} `, make("b", "", value));
    };
    add("answer", row.answer);
    add("gold", row.gold);
    add("tokens", row.tokens === null ? "" : String(row.tokens));
    add("ended by", row.finish);
    add("because", row.verdict === "correct" ? "" : row.reason);
    return line;
  }

  statement(row) {
    const problem = this.source.problems.find((p) => p.problem_id === row.problem_id && p.benchmark === row.benchmark);
    if (!problem) return [];
    const parts = [make("h4", "", "Problem"), make("div", "text", problem.statement || problem.prompt)];
    if (problem.prompt && problem.prompt !== problem.statement) {
      const more = make("details", "setting");
      more.append(make("summary", "", "Prompt as the policy read it"), make("pre", "", problem.prompt));
      parts.push(more);
    }
    return parts;
  }

  response(row) {
    const part = make("div");
    const text = make("div", "text response");
    text.tabIndex = 0;
    for (const [piece, kind] of row.pieces) text.append(make("span", kind, piece));
    part.append(make("h4", "", "Response"), text);
    return part;
  }

  key(row) {
    const key = make("div", "key");
    const kinds = new Set(row.pieces.map((piece) => piece[1]));
    const add = (kind, words) => {
      const entry = make("span");
      const box = make("span", "text");
      box.append(make("span", `sample ${kind}`, kind === "anchor" ? "token" : kind === "marker" ? "\\…{ }" : "42"));
      entry.append(box, ` ${words}`);
      key.append(entry);
    };
    if (kinds.has("anchor")) add("anchor", `anchor: ${this.source.anchor}`);
    else key.append(make("span", "", `No token of this text is its anchor (${this.source.anchor}).`));
    if (kinds.has("marker")) add("marker", "answer marker");
    if (kinds.has("answer")) add("answer", "graded answer");
    return key;
  }

  neighbours(row) {
    if (!this.source.floor) return [];
    const head = make("h4", "", "Nearest in state space");
    if (!row.near) return [head, make("p", "note", "It has no state at this anchor.")];
    const list = make("ol", "near");
    const total = this.source.rows.length;
    for (const [number, cosine] of row.near) {
      const here = number < total;
      const other = here ? this.source.rows[number] : this.source.others[number - total];
      const same = other.problem_id === row.problem_id && other.benchmark === row.benchmark;
      const line = make(here ? "button" : "div", "row");
      if (here) {
        line.type = "button";
        line.addEventListener("click", () => this.show(number));
      } else line.title = "Its text is not in this page (--max-rollouts)";
      line.append(make("span", "cosine", cosine.toFixed(4)), make("i", `dot ${other.verdict}`),
        make("span", "who", `${this.name(other)} · ${other.sample}: ${VERDICT_WORDS[other.verdict] || other.verdict}, ${other.answer || "–"}`),
        make("span", "same", same ? "same problem" : other.gold && other.gold === row.gold ? "same gold" : ""));
      const item = make("li");
      item.append(line);
      list.append(item);
    }
    return [head, make("p", "foot", `Raw cosine; floor ${this.source.floor}`), list];
  }
}
