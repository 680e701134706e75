// The state of the page: what the server said, and the sliders as they are now.

import { byId } from "/api.js";

export const LETTERS = "ABCDEF";
export const page = { state: null, before: null };

const listeners = [];

export const path = (rest = "") => `/api/sessions/${page.state.id}${rest}`;
export const onChange = (listener) => listeners.push(listener);
export const changed = (what) => listeners.forEach((listener) => listener(what));

// The settings of an image; of a field that is empty or out of range, the last good number.
export function settings() {
  const kept = page.state.settings;
  kept.prompt = byId("prompt").value;
  for (const name of ["seed", "steps", "cfg"]) {
    const field = byId(name);
    if (field.value !== "" && field.checkValidity()) kept[name] = Number(field.value);
  }
  return { ...kept };
}

export const allScales = () => page.state.adapters.map((adapter) => adapter.scales);
export const neutral = () => ({ whole: 1, blocks: {}, cells: {}, schedule: "" });

// Replace the scales of all adapters, and keep the old ones for "Undo".
export function setScales(scales) {
  page.before = structuredClone(allScales());
  page.state.adapters.forEach((adapter, place) => {
    adapter.scales = structuredClone(scales[place]);
  });
  changed("scales");
}

export function undo() {
  if (page.before) setScales(page.before);
}
