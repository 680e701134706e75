// The images: the newest request wins, older ones are cancelled.

import { attempt, byId, Cancelled, say, send, remove } from "/api.js";
import { allScales, page, path, settings } from "/state.js";

const PAUSE = 120; // milliseconds without a change before an image is asked for
const kinds = { mix: {}, full: {} };
let last = 0;

const nextNumber = () => (last = Math.max(last + 1, Date.now()));
const figure = (kind) => byId(kind);

export function renew(kind, pause = PAUSE) {
  clearTimeout(kinds[kind].timer);
  kinds[kind].timer = setTimeout(() => attempt(() => load(kind), kind), pause);
}

async function load(kind) {
  const own = kinds[kind];
  own.abort?.abort();
  own.abort = new AbortController();
  const { signal } = own.abort;
  const began = performance.now();
  busy(kind, true);
  try {
    const body = { number: nextNumber(), settings: settings(), scales: allScales() };
    const answer = await send("POST", path(`/images/${kind}`), body, { signal });
    const blob = await answer.blob();
    if (signal.aborted) return;
    show(kind, blob, (performance.now() - began) / 1000);
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Cancelled) return; // a newer request is running, or none is
    busy(kind, false);
    throw error;
  }
  busy(kind, false);
}

function show(kind, blob, seconds) {
  const image = figure(kind).querySelector("img");
  const before = image.src;
  image.src = URL.createObjectURL(blob);
  image.dataset.version = String(Number(image.dataset.version ?? 0) + 1);
  if (before.startsWith("blob:")) URL.revokeObjectURL(before);
  figure(kind).querySelector(".time").textContent = `${seconds.toFixed(1)} s`;
  if (kind === "mix") say(`The image is ready after ${seconds.toFixed(1)} seconds.`);
}

function busy(kind, is) {
  figure(kind).setAttribute("aria-busy", String(is));
  if (!is) figure(kind).querySelector("progress").hidden = true;
  byId("stop").hidden = !isBusy();
}

export const isBusy = () => Object.keys(kinds).some((kind) => figure(kind).getAttribute("aria-busy") === "true");

export function showProgress(images) {
  for (const [kind, progress] of Object.entries(images)) {
    const bar = figure(kind).querySelector("progress");
    bar.hidden = !(progress && figure(kind).getAttribute("aria-busy") === "true");
    if (progress) [bar.value, bar.max] = progress;
  }
}

export async function stop() {
  for (const kind of Object.keys(kinds)) {
    clearTimeout(kinds[kind].timer);
    kinds[kind].abort?.abort();
    await remove(path(`/images/${kind}`));
    busy(kind, false);
  }
  say("Stopped.");
}

export function renewAll(pause = PAUSE) {
  renew("mix", pause);
  if (page.state.adapters.length) renew("full", pause);
}
