// The users and the share of blocks, as they stand in the page's address behind the #.
//
// A user is a name and the ids of a history, the oldest first; `keep` is null as long as the
// model's own share is meant.

export function readState(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const users = given.getAll("user").map((text) => {
    try {
      const [name, ...history] = text.split(" ").map(decodeURIComponent);
      return { name, history };
    } catch {
      throw new Error(`the page's address has a user that cannot be read: ${text.slice(0, 40)}`);
    }
  });
  const keep = given.has("keep") ? Number(given.get("keep")) : null;
  return { users, keep: Number.isFinite(keep) ? keep : null };
}

export function writeState({ users, keep }) {
  const given = new URLSearchParams();
  for (const { name, history } of users) {
    given.append("user", [name, ...history].map(encodeURIComponent).join(" "));
  }
  if (keep !== null) given.set("keep", keep);
  return `#${given}`;
}

// The first name of "User A", "User B", … that no user has.
export function freeName(users) {
  const taken = new Set(users.map((user) => user.name));
  for (let number = 0; ; number++) {
    const letter = String.fromCharCode(65 + (number % 26));
    const name = `User ${letter}${number < 26 ? "" : Math.floor(number / 26)}`;
    if (!taken.has(name)) return name;
  }
}
