// Long work: its progress, a button that cancels it, and what it found.

import { attempt, byId, get, make, post, remove, say } from "/api.js";
import { colour, conditionScales, offerColours } from "/blocks.js";
import { isBusy, showProgress } from "/images.js";
import { allScales, LETTERS, page, path, setScales } from "/state.js";

const PERIOD = 300; // milliseconds between two questions how far the work is
const WORDS = { waiting: "Waiting for its turn", running: "Working", cancelled: "Cancelled.", failed: "" };
const CALLED = { weights: "the weights", measure: "the measurement", advice: "the search", strip: "the images of the blocks" };
const active = (job) => job && ["waiting", "running"].includes(job.state);
let timer = null;

export async function start(kind, body = {}) {
  await attempt(async () => {
    const job = await post(path(`/jobs/${kind}`), body);
    page.state.jobs[kind] = job;
    show(kind);
    if (job.state === "done") finished(kind); // quicker than the answer
    watch();
  });
}

// Ask how far everything is while something is running.
export function watch() {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    await attempt(ask, "running").catch(() => {});
    if (isBusy() || Object.values(page.state.jobs).some(active)) watch();
  }, PERIOD);
}

async function ask() {
  const { images, jobs } = await get(path("/running"));
  showProgress(images);
  for (const [kind, job] of Object.entries(jobs)) {
    const before = page.state.jobs[kind];
    const isNew = !before || before.id !== job.id || before.state !== job.state || before.done !== job.done;
    if (!isNew) continue;
    const wanted = kind === "strip" || !active(job);
    page.state.jobs[kind] = wanted ? ((await get(path(`/jobs/${kind}`))) ?? job) : job;
    show(kind);
    if (active(before) && job.state === "done") finished(kind);
  }
}

function finished(kind) {
  const { result } = page.state.jobs[kind];
  if (kind === "weights" || kind === "measure") {
    page.state.measures = result;
    offerColours();
    if (kind === "measure") say("Effect and conflict are measured.");
  }
  if (kind === "advice") {
    if (result.advised) useAdvice(result);
    say(result.text);
  }
  if (kind === "strip") say("The images of the blocks are ready.");
}

function useAdvice(result) {
  const scales = structuredClone(allScales());
  const [identity, style] = result.adapters; // those of the search: the roles may have changed
  scales[identity] = result.scales[0];
  scales[style] = result.scales[1];
  setScales(scales);
}

export function show(kind) {
  const job = page.state.jobs[kind];
  showJob(document.querySelector(`[data-job="${kind}"]`), kind, job);
  if (kind === "advice") showAdvice(active(job) ? null : job?.result);
  if (kind === "strip") showStrip(job?.result ?? []);
}

function showJob(box, kind, job) {
  if (!box) return;
  if (!job || job.state === "done") {
    box.replaceChildren();
    return;
  }
  const { asked, found, fix } = job.error ?? {};
  const text = job.error ? `${asked}: ${found}. ${fix}.` : [WORDS[job.state], job.stage].filter(Boolean).join(": ");
  const parts = [make("span", { class: job.error ? "failed" : "note" }, text)];
  if (active(job)) {
    const bar = make("progress", { "aria-label": `Progress of ${CALLED[kind]}` });
    if (job.total) Object.assign(bar, { max: job.total, value: job.done });
    const cancel = make("button", { type: "button", "aria-label": `Cancel ${CALLED[kind]}` }, "Cancel");
    cancel.addEventListener("click", () => attempt(() => remove(path(`/jobs/${kind}`))));
    parts.push(bar, make("span", { class: "note" }, job.total ? `${job.done} of ${job.total}` : ""), cancel);
  }
  const had = box.contains(document.activeElement);
  box.replaceChildren(...parts);
  if (had) box.querySelector("button")?.focus();
}

function showAdvice(result) {
  const box = byId("advice");
  if (!result) {
    box.replaceChildren();
    return;
  }
  const parts = [make("p", { class: result.advised ? "verdict" : "verdict leave" }, result.text)];
  if (result.own_images) {
    parts.push(make("p", { class: "note" }, "The images were compared with what each adapter makes alone. For its training images instead, start bwlab ui with --data NAME=DIR."));
  }
  if (result.advised) {
    const use = make("button", { type: "button" }, "Use these scales");
    use.addEventListener("click", () => useAdvice(result));
    parts.push(use);
  }
  box.replaceChildren(...parts);
}

function showStrip(images) {
  const rows = [];
  for (const [place, { name }] of page.state.adapters.entries()) {
    for (const way of ["alone", "off"]) {
      const own = images.filter((image) => image.adapter === place && image.way === way);
      if (!own.length) continue;
      const title = way === "alone" ? `Only ${name} in` : `All without ${name} in`;
      const badge = make("span", { class: `badge of-${place}`, "aria-hidden": "true" }, LETTERS[place]);
      rows.push(make("h3", {}, badge, ` ${title}`), make("div", { class: "thumbs" }, ...own.map((image) => thumb(image, title))));
    }
  }
  byId("strip").replaceChildren(...rows);
}

function thumb(image, title) {
  const shown = make("img", { src: image.image, alt: "" });
  const button = make("button", { type: "button", class: "thumb", "aria-label": `${title} ${image.block}: set the sliders` }, shown, make("span", {}, image.block));
  button.addEventListener("click", () => setScales(conditionScales(image)));
  return button;
}

export function showAll() {
  for (const kind of ["measure", "advice", "strip"]) show(kind);
  colour();
  if (Object.values(page.state.jobs).some(active)) watch();
}
