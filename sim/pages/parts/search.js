"use strict";

// Steps by what they say, by who takes them, and by the values that they change.
class Search {
  constructor(section, story) {
    this.story = story;
    this.input = section.querySelector(".search");
    this.said = section.querySelector(".found");
    this.buttons = [section.querySelector(".previous"), section.querySelector(".next")];
    this.input.addEventListener("input", () => this.find());
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") story.toNext(".found-here", event.shiftKey);
      if (event.key === "Escape") story.chart.focus();
    });
    this.buttons.forEach((button, at) => button.addEventListener("click", () => story.toNext(".found-here", at === 0)));
  }

  for(text) {
    this.input.value = text;
    this.find();
  }

  find() {
    const wanted = this.input.value.toLowerCase();
    this.story.steps.forEach((step, number) => {
      step.classList.toggle("found-here", wanted !== "" && this.text(step, number).toLowerCase().includes(wanted));
    });
    this.tell();
  }

  text(step, number) {
    const { actor, labels, changed } = this.story.data[number];
    const there = step.querySelector(":scope > .there:not(.same)");
    const says = [actor, step.querySelector(".box")?.textContent, there?.textContent];
    return [...says, ...labels, ...changed.map((each) => each.join(" "))].join(" ");
  }

  // Which of those found it is, and how many are hidden.
  tell() {
    const found = this.story.steps.filter((step) => step.matches(".found-here:not(.only-there)"));
    const shown = found.filter((step) => step.offsetParent);
    const at = shown.indexOf(this.story.selected) + 1;
    const hidden = found.length - shown.length;
    const counts = [at ? `${at} of ${shown.length} found` : `${shown.length} found`];
    if (hidden) counts.push(`${hidden} more in steps that are hidden`);
    this.said.textContent = this.input.value ? counts.join(", ") : "";
    for (const button of this.buttons) button.hidden = !shown.length;
  }
}
