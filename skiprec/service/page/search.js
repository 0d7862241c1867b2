// A field that searches items by name: a combobox with a list, as the ARIA practices describe it.
import { searchItems } from "./api.js";
import { element } from "./dom.js";

const PAUSE_MS = 120;
let made = 0;

export function searchField(label, onChosen, onProblem) {
  const id = `search-${made++}`;
  const list = element("ul", { id: `${id}-list`, role: "listbox", "aria-label": label, hidden: true });
  const input = element("input", {
    id,
    type: "text",
    role: "combobox",
    autocomplete: "off",
    spellcheck: "false",
    "aria-autocomplete": "list",
    "aria-expanded": "false",
    "aria-controls": list.id,
  });
  const none = element("p", { class: "quiet", role: "status", hidden: true }, "No item has all of these words.");
  let found = [];
  let active = -1;
  let timer = null;
  let latest = 0;

  function show(items) {
    found = items;
    active = -1;
    list.replaceChildren(
      ...items.map((item, place) =>
        element(
          "li",
          {
            id: `${id}-${place}`,
            role: "option",
            "aria-selected": "false",
            on: {
              pointerdown: (event) => event.preventDefault(), // the field keeps the focus
              click: () => choose(place),
            },
          },
          item.name ?? item.id,
          " ",
          element("span", { class: "quiet" }, item.name === null ? "" : item.id),
        ),
      ),
    );
    list.hidden = items.length === 0;
    none.hidden = !input.value.trim() || items.length > 0;
    input.setAttribute("aria-expanded", String(!list.hidden));
    input.removeAttribute("aria-activedescendant");
  }

  function mark(place) {
    active = (place + found.length) % found.length;
    [...list.children].forEach((option, number) =>
      option.setAttribute("aria-selected", String(number === active)),
    );
    input.setAttribute("aria-activedescendant", list.children[active].id);
    list.children[active].scrollIntoView({ block: "nearest" });
  }

  function choose(place) {
    const item = found[place];
    input.value = "";
    show([]);
    onChosen(item);
  }

  async function look() {
    const number = ++latest;
    try {
      const items = await searchItems(input.value);
      if (number === latest && document.activeElement === input) show(items);
    } catch (error) {
      onProblem(error);
    }
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE_MS);
  });
  input.addEventListener("blur", () => {
    latest++;
    show([]);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") show([]);
    else if (event.key === "ArrowDown" && list.hidden) look();
    else if (list.hidden) return;
    else if (event.key === "ArrowDown") mark(active + 1);
    else if (event.key === "ArrowUp") mark(active < 0 ? found.length - 1 : active - 1);
    else if (event.key === "Enter") choose(Math.max(active, 0));
    else return;
    event.preventDefault();
  });
  return element("div", { class: "search" }, element("label", { for: id }, label), input, list, none);
}
