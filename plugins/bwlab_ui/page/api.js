// Requests to the server, the session of this tab, and messages.

const KEY = "bwlab-session";
const TRIES = 10;

export const byId = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function say(text) {
  byId("status").textContent = text;
}

let shownBy = "";

// An error stays until what showed it goes well, or until the next click.
export function showError(error, by = "click") {
  shownBy = by;
  const shown = byId("error");
  shown.textContent = error ? `${error.asked}: ${error.found}. ${error.fix}.`.replace(/([.?!])\.$/, "$1") : "";
  shown.hidden = !error;
}

export class Cancelled extends Error {}

async function answerOf(answer) {
  if (answer.ok) return answer;
  if (answer.status === 401) location.replace("/login");
  const document = await answer.json().catch(() => ({}));
  if (document.cancelled) throw new Cancelled();
  const error = document.error ?? { asked: "this request", found: `the server answered ${answer.status}`, fix: "Reload the page" };
  throw Object.assign(new Error(error.found), { shown: error });
}

export async function send(method, path, body, options = {}) {
  const given = method === "GET" ? {} : { body: body instanceof Blob ? body : JSON.stringify(body ?? {}) };
  let answer;
  try {
    answer = await fetch(path, { method, ...given, ...options });
  } catch (error) {
    if (error.name === "AbortError") throw new Cancelled();
    const shown = { asked: "the server", found: "it does not answer", fix: "Look whether bwlab ui still runs, then reload the page" };
    throw Object.assign(error, { shown });
  }
  return answerOf(answer);
}

export const get = async (path) => (await send("GET", path)).json();
export const post = async (path, body) => (await send("POST", path, body)).json();
export const remove = async (path) => (await send("DELETE", path)).json();

// Run something for a button, or for a timer, which has a name of its own; a failure is shown in one line.
export async function attempt(work, by = "click") {
  if (by === "click" || by === shownBy) showError(null);
  try {
    return await work();
  } catch (error) {
    if (error instanceof Cancelled) return undefined;
    if (!error.shown) throw error;
    showError(error.shown, by);
    return undefined;
  }
}

// A tab that was duplicated has the session of the other one in its storage; the lock says who has it.
function claim(id) {
  if (!navigator.locks) return true;
  return new Promise((resolve) => {
    navigator.locks.request(`bwlab-${id}`, { ifAvailable: true }, (lock) => {
      resolve(Boolean(lock));
      return lock ? new Promise(() => {}) : undefined;
    });
  });
}

async function claimed(id) {
  for (let tries = 0; tries < TRIES; tries += 1) {
    if (await claim(id)) return true;
    await new Promise((resolve) => setTimeout(resolve, 50)); // the page before a reload may still have it
  }
  return false;
}

export async function openSession() {
  const id = sessionStorage.getItem(KEY);
  let state;
  if (id) {
    try {
      state = (await claimed(id)) ? await get(`/api/sessions/${id}`) : await post("/api/sessions", { like: id });
    } catch (error) {
      if (!error.shown) throw error; // the server has begun anew
    }
  }
  state ??= await post("/api/sessions", {});
  if (state.id !== id) await claim(state.id);
  sessionStorage.setItem(KEY, state.id);
  return state;
}
