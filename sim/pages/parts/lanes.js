"use strict";

// The columns of a chart: a click on a name hides one, with its rows, and another brings it back.
class Lanes {
  constructor(section, story) {
    this.section = section;
    this.story = story;
    this.heads = [...story.chart.querySelectorAll(".head .lane")];
    this.names = this.heads.map((head) => head.textContent);
    this.away = new Set();
    this.chips = section.querySelector(".hidden-lanes");
    this.heads.forEach((head, at) => {
      const hides = this.button(at, "hide this column");
      hides.addEventListener("click", () => this.toggle(at, true));
      head.replaceChildren(hides);
    });
  }

  button(at, title) {
    const button = make("button", "", this.names[at]);
    button.type = "button";
    button.title = `${this.names[at]}: ${title}`;
    return button;
  }

  toggle(at, isAway) {
    if (isAway) this.away.add(at);
    else this.away.delete(at);
    for (const each of this.story.chart.querySelectorAll(`[data-lane="${at + 1}"]`)) {
      each.classList.toggle("away", isAway);
      if (each.matches(".act")) each.parentElement.classList.toggle("away", isAway);
    }
    this.lay();
    this.tell();
    this.story.search.tell();
    this.story.redraw();
  }

  // Columns as wide as they are, and nothing for one that is hidden.
  lay() {
    const { style } = this.story.chart;
    const shown = this.heads.map((_, at) => at).filter((at) => this.section.matches(".all") || !this.heads[at].matches(".minor"));
    style.setProperty("--columns", shown.map((at) => (this.away.has(at) ? "0" : "minmax(3.6rem, 1fr)")).join(" "));
    style.setProperty("--shown", shown.filter((at) => !this.away.has(at)).length);
  }

  tell() {
    const back = [...this.away].map((at) => {
      const shows = this.button(at, "show this column again");
      shows.addEventListener("click", () => this.toggle(at, false));
      return shows;
    });
    this.chips.replaceChildren(...(back.length ? ["hidden: ", ...back] : []));
  }
}
