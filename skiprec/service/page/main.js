// The page: several users side by side, and one knob for the share of blocks.
import { namesOf, readModel } from "./api.js";
import { UserCard } from "./card.js";
import { freeName, readState, writeState } from "./state.js";

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
const accuracy = (mrr) => mrr.toFixed(4).replace(/^0/, "");

const state = { users: [], keep: null };
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
  // Shows the model that answers now; false if it is the one that is shown.
  onOtherModel: async () => {
    const model = await readModel().catch(() => page.model);
    if (model.model === page.model.model) return false;
    showModel(model);
    cards.forEach((card) => card.ask());
    return true;
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

// The stops of the knob: the share that the model was trained with, then those of its curve. Of
// those that read alike the last one counts.
function stopsOf(curve) {
  const shares = new Map(curve.map((point) => [percent(point.keep), point.keep]));
  return [null, ...shares.values()];
}

function nearest(stops, keep) {
  if (keep === null) return null;
  const distance = (stop) => (stop === null ? Infinity : Math.abs(stop - keep));
  return stops.reduce((best, stop) => (distance(stop) < distance(best) ? stop : best), null);
}

let stops = [null];

function showKeep() {
  const { curve } = page.model;
  const full = curve.at(-1);
  const point = curve.find((one) => one.keep === state.keep);
  at("keep-text").textContent = point
    ? `${percent(point.keep)}: MRR@20 ${accuracy(point.mrr_at_20)} on validation rows, ` +
      `${percent(full.keep)} has ${accuracy(full.mrr_at_20)}`
    : "as the model was trained";
  at("keep").setAttribute("aria-valuetext", at("keep-text").textContent);
}

// The header and the knob, of the model that answers now.
function showModel(model) {
  page.model = model;
  const { backbone, blocks, items, executor, curve } = model;
  at("model").textContent =
    `${model.model}: ${backbone} of ${blocks} blocks, ${items.toLocaleString("en")} items, executor ${executor}`;
  at("knob").hidden = !curve.length;
  at("no-knob").hidden = curve.length > 0;
  stops = stopsOf(curve);
  state.keep = nearest(stops, state.keep);
  if (!curve.length) return;
  at("keep").max = stops.length - 1;
  at("keep").value = stops.indexOf(state.keep);
  showKeep();
}

let timer = null;
at("keep").addEventListener("input", () => {
  state.keep = stops[Number(at("keep").value)];
  showKeep();
  page.onChanged();
  clearTimeout(timer);
  timer = setTimeout(() => cards.forEach((card) => card.ask()), 80);
});

at("add-user").addEventListener("click", () => {
  const user = { name: freeName(state.users), history: [] };
  state.users.push(user);
  page.onChanged();
  const card = addCard(user);
  card.ask();
  card.root.querySelector("input").focus();
});

async function start() {
  Object.assign(state, readState(location.hash));
  showModel(await readModel());
  const ids = [...new Set(state.users.flatMap((user) => user.history))];
  page.names = new Map(await namesOf(ids));
  if (!state.users.length) state.users.push({ name: freeName([]), history: [] });
  state.users.forEach(addCard);
  await Promise.all(cards.map((card) => card.ask()));
}

start().catch(page.onProblem);
