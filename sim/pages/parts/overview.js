"use strict";

// The whole run to scale, beside a chart: which part of it is in view, and the way there.
class Overview {
  constructor(element, story) {
    this.story = story;
    this.svg = element.querySelector("svg");
    this.marks = [...element.querySelectorAll(".mark")];
    this.view = svg("rect", "in-view");
    this.now = svg("line", "now");
    this.view.setAttribute("height", this.svg.dataset.high);
    this.now.setAttribute("y2", this.svg.dataset.high);
    this.svg.prepend(this.view);
    this.svg.append(this.now);
    // A slider to those who do not see it: its value is the instant of the step that is selected.
    const { svg: slider } = this;
    slider.setAttribute("role", "slider");
    slider.setAttribute("tabindex", "0");
    slider.setAttribute("aria-orientation", "horizontal");
    slider.setAttribute("aria-valuemin", "0");
    slider.setAttribute("aria-valuemax", slider.dataset.last);
    slider.addEventListener("click", (event) => this.click(event));
    slider.addEventListener("keydown", (event) => this.key(event));
  }

  // To the step that is nearest: in time first, then in its row.
  click(event) {
    const far = (mark) => {
      const box = mark.getBoundingClientRect();
      const down = Math.max(box.top - event.clientY, event.clientY - box.bottom, 0);
      const across = Math.max(box.left - event.clientX, event.clientX - box.right, 0);
      return across * 1000 + down;
    };
    const [first, ...rest] = this.marks.filter((mark) => this.step(mark).offsetParent);
    const nearest = rest.reduce((best, mark) => (far(mark) < far(best) ? mark : best), first);
    if (nearest) this.go(this.step(nearest));
  }

  // To the next instant at which something is shown, and not from step to step.
  key(event) {
    const by = { ArrowDown: 1, ArrowRight: 1, PageDown: 5, ArrowUp: -1, ArrowLeft: -1, PageUp: -5 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const firsts = new Map();
    for (const step of this.story.shown()) if (!firsts.has(time(step))) firsts.set(time(step), step);
    const instants = [...firsts.keys()];
    const here = instants.indexOf(time(this.story.selected));
    this.go(firsts.get(instants[Math.min(Math.max(here + by, 0), instants.length - 1)]));
  }

  go(step) {
    this.story.select(step);
  }

  step(mark) {
    return this.story.steps[Number(mark.dataset.step)];
  }

  // What of it the chart shows now, and what is selected.
  look() {
    const { chart } = this.story;
    const box = chart.getBoundingClientRect();
    const top = chart.querySelector(".head").getBoundingClientRect().bottom;
    const inView = this.story.shown().filter((step) => {
      const row = step.getBoundingClientRect();
      return row.bottom > top + 4 && row.top < box.bottom - 4;
    });
    const from = this.at(inView[0]), to = this.at(inView.at(-1));
    this.view.setAttribute("x", `${from}%`);
    this.view.setAttribute("width", `${Math.max(to - from, 0.8)}%`);
    if (!this.story.selected) return;
    for (const end of ["x1", "x2"]) this.now.setAttribute(end, `${this.at(this.story.selected)}%`);
    this.svg.setAttribute("aria-valuenow", time(this.story.selected));
    this.svg.setAttribute("aria-valuetext", `${time(this.story.selected)} seconds`);
  }

  // How far on its instant is, in per cent.
  at(step) {
    const { first, last, margin } = this.svg.dataset;
    const share = step ? (time(step) - first) / (last - first) : 0;
    return Number(margin) + share * (100 - 2 * margin);
  }
}

function svg(name, kind) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  element.setAttribute("class", kind);
  return element;
}

function time(step) {
  return Number(step.querySelector(".time").textContent);
}

