// When a prompt is sent: a browser has six connections to a server, for all its tabs together, and
// each answer that is open, also of a prompt that waits for its turn, takes one.

// The watch has one, and one is left for Stop and for texts.
export const OPEN_MAX = 4;

export class Outbox {
  constructor() {
    this.open = new Set();
    // Prompts that the server has not seen, in their order.
    this.unsent = [];
  }

  // turn: has `run`, which is over when its connection is free. isShort: it stops others or is
  // refused, so that it, or another, has soon ended: it takes the last connection meanwhile.
  send(turn, isShort) {
    if (this.open.size < OPEN_MAX + (isShort ? 1 : 0)) this.begin(turn);
    else this.unsent.push(turn);
  }

  withdraw(turn) {
    this.unsent = this.unsent.filter((each) => each !== turn);
  }

  async begin(turn) {
    this.open.add(turn);
    try {
      await turn.run();
    } finally {
      // Also where it failed: each place that is not given back is missing from then on.
      this.open.delete(turn);
      if (this.unsent.length && this.open.size < OPEN_MAX) this.begin(this.unsent.shift());
    }
  }
}
