// One user: a history, what is recommended for it, and what that cost.
import { recommend, searchItems } from "./api.js";
import { strip, times } from "./depth.js";
import { element } from "./dom.js";
import { searchField } from "./search.js";

const EXAMPLE_ITEMS = 6;
let made = 0;

// An item in a list: its name, its id, and a button.
function listed(item, name, action, sign, onClick) {
  const title = name ?? item;
  const id = name === null || name === undefined ? "" : item;
  return element(
    "li",
    {},
    element("span", { class: "name" }, title, " ", element("span", { class: "quiet" }, id)),
    element(
      "button",
      { type: "button", class: "small", "aria-label": `${action} ${title}`, on: { click: onClick } },
      sign,
    ),
  );
}

function titled(title, ...children) {
  return [element("h3", {}, title), ...children];
}

// `page` has the model, the share of blocks, the names of items that are known so far, and what to
// call when something has changed, gone wrong, or is worth telling.
export class UserCard {
  constructor(user, page) {
    this.user = user;
    this.page = page;
    this.latest = 0;
    this.full = { of: null, result: null }; // the answer of all blocks, which the knob leaves as it is
    this.history = element("div");
    this.answer = element("div", { class: "answer" });
    const title = element("h2", { id: `user-${made++}` }, user.name);
    this.root = element(
      "section",
      { class: "card", "aria-labelledby": title.id },
      element(
        "div",
        { class: "bar" },
        title,
        element(
          "button",
          {
            type: "button",
            class: "small",
            "aria-label": `Remove ${user.name}`,
            on: { click: () => page.onRemoved(this) },
          },
          "×",
        ),
      ),
      searchField("Add an item by name or id", (item) => this.add(item.id, item.name), page.onProblem),
      this.history,
      this.answer,
    );
    this.showHistory();
  }

  add(item, name) {
    if (name) this.page.names.set(item, name);
    this.user.history.push(item);
    this.changed();
  }

  removeAt(place) {
    this.user.history.splice(place, 1);
    this.changed();
    this.root.querySelector("input").focus(); // the button that had the focus is gone
  }

  async addExample() {
    const items = await searchItems("", 100);
    for (let n = 0; n < EXAMPLE_ITEMS && items.length; n++) {
      const [item] = items.splice(Math.floor(Math.random() * items.length), 1);
      if (item.name) this.page.names.set(item.id, item.name);
      this.user.history.push(item.id);
    }
    this.changed();
  }

  changed() {
    this.showHistory();
    this.page.onChanged();
    this.ask();
  }

  showHistory() {
    const { history } = this.user;
    const items = history.map((item, place) =>
      listed(item, this.page.names.get(item), "Remove", "×", () => this.removeAt(place)),
    );
    const example = element(
      "button",
      { type: "button", on: { click: () => this.addExample().catch(this.page.onProblem) } },
      "Some frequent items",
    );
    this.history.replaceChildren(
      ...titled(
        "History, the oldest first",
        history.length ? element("ol", { class: "items" }, ...items) : element("p", {}, "Empty. ", example),
      ),
    );
  }

  // Asks for the list at the share of blocks, and with all blocks to compare.
  async ask() {
    const number = ++this.latest;
    const { user, page } = this;
    const history = [...user.history];
    const isWanted = () => number === this.latest && this.root.isConnected;
    const of = JSON.stringify([page.model.model, history]);
    try {
      const own = await recommend(history, page.keep, isWanted);
      const all = this.full.of === of ? this.full.result : await recommend(history, 1, isWanted);
      if (!isWanted() || own === null || all === null) return;
      if (own.model !== page.model.model || all.model !== own.model) await page.onOtherModel();
      else {
        this.full = { of, result: all };
        this.show(own, all);
      }
    } catch (error) {
      // Another model may have another knob, so the service may refuse what the page asks for.
      if (isWanted() && !(await page.onOtherModel())) page.onProblem(error);
    }
  }

  show(own, all) {
    const { page, user } = this;
    own.items.forEach((item, place) => own.names[place] && page.names.set(item, own.names[place]));
    const items = own.items.map((item, place) =>
      listed(item, own.names[place], "Add to the history:", "+", () => this.add(item, own.names[place])),
    );
    const recommended = titled("Recommended", element("ol", { class: "items" }, ...items));
    const unknown = own.unknown.length
      ? [element("p", { class: "quiet" }, `Unknown to the model: ${own.unknown.join(", ")}.`)]
      : [];
    if (own.source === "popularity") {
      const why = user.history.length ? "the model knows no item of this history" : "the history is empty";
      const text = `The most frequent items; no block ran, because ${why}.`;
      this.answer.replaceChildren(...unknown, element("p", { class: "quiet" }, text), ...recommended);
      page.onNews(`${user.name}: the most frequent items`);
      return;
    }
    const { blocks } = page.model;
    this.answer.replaceChildren(
      ...unknown,
      ...titled(`Blocks that ran: ${own.kept_blocks.length} of ${blocks}`, strip(own.kept_blocks, blocks)),
      ...titled("Time", times(own.ms, all.ms)),
      ...recommended,
    );
    page.onNews(`${user.name}: ${own.kept_blocks.length} of ${blocks} blocks ran`);
  }
}
