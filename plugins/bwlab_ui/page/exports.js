// What the page hands out: files and texts.

import { attempt, byId, get, make, say } from "/api.js";
import { page, path } from "/state.js";

const PAUSE = 400;
let timer = null;

export function renewExports() {
  clearTimeout(timer);
  if (byId("exporting").open) timer = setTimeout(() => attempt(async () => show(await get(path("/exports"))), "exports"), PAUSE);
}

function line(label, text, notes = []) {
  const id = `text-${label.replace(/\W+/g, "-")}`;
  const parts = [make("label", { for: id }, label)];
  if (text === null) {
    parts.push(make("span", { id, class: "note" }, "not possible"));
  } else {
    const field = make("input", { id, type: "text", readOnly: true, value: text });
    const copy = make("button", { type: "button", "aria-label": `Copy ${label}` }, "Copy");
    copy.addEventListener("click", () => copyText(field, label));
    parts.push(field, copy);
  }
  for (const note of notes) parts.push(make("p", { class: "note" }, note));
  return make("div", { class: "line" }, ...parts);
}

async function copyText(field, label) {
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
    say(`Copied: ${label}.`);
  } catch {
    say("The text is selected: press Ctrl-C to copy it.");
  }
}

async function download(address, name) {
  const answer = await fetch(address);
  if (!answer.ok) throw Object.assign(new Error(name), { shown: (await answer.json()).error });
  save(await answer.blob(), name);
}

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function show(texts) {
  const parts = texts.adapters.flatMap(({ name, lines, notes }, place) => {
    const button = make("button", { type: "button" }, `Download ${name} with these scales`);
    button.addEventListener("click", () => attempt(() => download(path(`/adapters/${place}/file`), `${name.replace(/[^\w.-]+/g, "_")}-mixed.safetensors`)));
    const kept = notes.map((note) => make("p", { class: "note" }, note));
    return [make("h3", {}, name), button, ...kept, ...lines.map((entry) => line(`${name}, ${entry.label}`, entry.text, entry.notes))];
  });
  byId("exports").replaceChildren(...parts, make("h3", {}, "Everything"), line("bwlab generate", texts.command), workflow(texts.workflow));
}

function workflow(nodes) {
  if (!nodes) return make("p", { class: "note" }, "There is no ComfyUI workflow for a transformer. Put the block specs into the node Load adapter (bwlab).");
  const button = make("button", { type: "button" }, "Download the ComfyUI workflow");
  button.addEventListener("click", () => save(new Blob([JSON.stringify(nodes, null, 2)], { type: "application/json" }), "bwlab-workflow.json"));
  return button;
}

export function forget() {
  if (!page.state.adapters.length) byId("exports").replaceChildren(make("p", { class: "note" }, "No adapter is open."));
}
