// The page: several users side by side, and one knob for the share of blocks.
import { namesOf, readModel } from "./api.js";
import { UserCard } from "./card.js";
import { freeName, readState, writeState } from "./state.js";

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
const accuracy = (mrr) => mrr.toFixed(4).replace(/^0/, "");

const state = readState(location.hash);
let cards = [];

const page = {
  model: null,
  names: new Map(),
  get keep() {
    return state.keep;
  },
  onChanged: () => history.replaceState(null, "", writeState(state)),
  onNews: (text) => {
    at("news").textContent = text;
    at("problem").hidden = true;
  },
  onProblem: (error) => {
    at("problem").textContent = `The service did not answer as expected: ${error.message}`;
    at("problem").hidden = false;
  },
  onRemoved: (card) => {
    state.users.splice(state.users.indexOf(card.user), 1);
    cards = cards.filter((one) => one !== card);
    card.root.remove();
    page.onChanged();
    at("add-user").focus();
  },
};

function addCard(user) {
  const card = new UserCard(user, page);
  cards.push(card);
  at("users").append(card.root);
  return card;
}

// The stops of the knob: the share that the model was trained with, then those of its curve.
function showKnob({ curve }) {
  const stops = [null, ...curve.map((point) => point.keep)];
  const full = curve.at(-1);
  const knob = at("keep");
  const show = () => {
    const point = curve.find((one) => one.keep === state.keep);
    at("keep-text").textContent = point
      ? `${percent(point.keep)}: MRR@20 ${accuracy(point.mrr_at_20)} on validation rows, ` +
        `${percent(full.keep)} has ${accuracy(full.mrr_at_20)}`
      : "as the model was trained";
    knob.setAttribute("aria-valuetext", at("keep-text").textContent);
  };
  knob.max = stops.length - 1;
  state.keep = stops.reduce((best, stop) =>
    stop !== null && state.keep !== null && Math.abs(stop - state.keep) < Math.abs((best ?? 9) - state.keep)
      ? stop
      : best,
  );
  knob.value = stops.indexOf(state.keep);
  let timer = null;
  knob.addEventListener("input", () => {
    state.keep = stops[Number(knob.value)];
    show();
    page.onChanged();
    clearTimeout(timer);
    timer = setTimeout(() => cards.forEach((card) => card.ask()), 80);
  });
  show();
  at("knob").hidden = false;
}

async function start() {
  page.model = await readModel();
  const { model, backbone, blocks, items, executor, curve } = page.model;
  at("model").textContent =
    `${model}: ${backbone} of ${blocks} blocks, ${items.toLocaleString("en")} items, executor ${executor}`;
  if (curve.length) showKnob(page.model);
  else {
    state.keep = null;
    at("no-knob").hidden = false;
  }
  at("add-user").addEventListener("click", () => {
    const user = { name: freeName(state.users), history: [] };
    state.users.push(user);
    page.onChanged();
    const card = addCard(user);
    card.ask();
    card.root.querySelector("input").focus();
  });
  const ids = [...new Set(state.users.flatMap((user) => user.history))];
  page.names = new Map(await namesOf(ids));
  if (!state.users.length) state.users.push({ name: freeName([]), history: [] });
  state.users.forEach(addCard);
  await Promise.all(cards.map((card) => card.ask()));
}

start().catch(page.onProblem);
