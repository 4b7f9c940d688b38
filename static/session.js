// Who looks: the token of this tab, where the hub asks for one. It comes with the page's address,
// after `#token=`, which no browser sends anywhere, or from whoever sits there; and it is kept for
// as long as the tab is there.

const KEY = "bellwether.token";

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem(KEY, given);
  history.replaceState(null, "", location.pathname + location.search);
}

let held = sessionStorage.getItem(KEY) ?? undefined;
let asking;

/** For `connect`. Tabs that have a token share with no others, as they can be somebody else's. */
export const session = { token, share: held ? false : "anonymous" };

/** Whether there is a token. */
export function isSignedIn() {
  return held !== undefined;
}

/** A request with the token. Asks for one if the hub does. */
export async function request(path, init = {}) {
  const response = await send(path, init, held);
  return response.status === 401 ? send(path, init, await token({ renew: true })) : response;
}

/** The same, but it asks nobody. */
export function send(path, init = {}, bearer = held) {
  const headers = { ...init.headers };
  if (bearer) headers.authorization = `Bearer ${bearer}`;
  return fetch(path, { ...init, headers });
}

async function token({ renew }) {
  if (!renew) return held;
  asking ??= ask(held);
  const answer = await asking;
  asking = undefined;
  sessionStorage.setItem(KEY, answer);
  // Nobody was there yet, so there is no place to lose, and other tabs need not be told.
  if (held === undefined) {
    location.reload();
    return new Promise(() => {});
  }
  return (held = answer);
}

/** Asks who sits there. */
async function ask(former) {
  const dialog = document.createElement("dialog");
  const form = document.createElement("form");
  form.className = "fields";
  const label = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "password", name: "token", required: true, autocomplete: "off" });
  const why = former ? "The token does not count any more." : "This hub asks for a token.";
  label.append(`${why} Paste one (bellwether token makes them): `, input);
  const button = Object.assign(document.createElement("button"), { textContent: "Sign in" });
  button.className = "main";
  form.append(label, button);
  dialog.append(form);
  document.body.append(dialog);
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.showModal();
  const { promise, resolve } = Promise.withResolvers();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.remove();
    resolve(input.value.trim());
  });
  return promise;
}
