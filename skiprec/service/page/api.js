// The routes of the service that the page uses.

const ROUNDS = 3;
const AT_ONCE = 100; // most items that the service tells of

async function asked(path, options) {
  const response = await fetch(path, options);
  const content = await response.json().catch(() => ({ error: response.statusText }));
  if (!response.ok) {
    const why = (content.problems ?? []).map((one) => `${one.field}: expected ${one.expected}`);
    throw new Error([content.error, ...why].join("; "));
  }
  return content;
}

// A history goes in a body and never in an address, which others may log.
function posted(path, body) {
  const headers = { "content-type": "application/json" };
  return asked(path, { method: "POST", headers, body: JSON.stringify(body) });
}

export const readModel = () => asked("v1/model");

export async function searchItems(query, limit = 12) {
  const found = await asked(`v1/items?${new URLSearchParams({ q: query, limit })}`);
  return found.items;
}

// The names of those of these items that have one, as pairs of id and name.
export async function namesOf(ids) {
  const pairs = [];
  for (let start = 0; start < ids.length; start += AT_ONCE) {
    const found = await posted("v1/items/lookup", { ids: ids.slice(start, start + AT_ONCE) });
    pairs.push(...found.items.filter((item) => item.name !== null).map((item) => [item.id, item.name]));
  }
  return pairs;
}

async function recommendOnce(history, keep, k) {
  const body = { histories: [history], k, explain: true, names: true };
  if (keep !== null) body.keep = keep;
  const { model, results } = await posted("v1/recommend", body);
  return { ...results[0], model };
}

let last = Promise.resolve();

// The list of a history. Its times are those of the fastest of some rounds, because other requests
// may disturb one. The page asks one question at a time: the service answers together what arrives
// together, and the time of a user would be that of all. Null if `isWanted` says no meanwhile.
export function recommend(history, keep, isWanted, k = 8) {
  const answer = last.then(() => fastest(history, keep, isWanted, k));
  last = answer.catch(() => null);
  return answer;
}

async function fastest(history, keep, isWanted, k) {
  let best = null;
  for (let round = 0; round < ROUNDS; round++) {
    if (!isWanted()) return null;
    const result = await recommendOnce(history, keep, k);
    if (best === null || result.ms.executor < best.ms.executor) best = result;
  }
  return best;
}
