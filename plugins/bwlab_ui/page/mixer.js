// The block mixer: opens the session of this tab and connects the controls.

import { attempt, byId, openSession, post, say, send, showError } from "/api.js";
import { colour, draw, offerColours, show } from "/blocks.js";
import { forget, renewExports } from "/exports.js";
import { renew, renewAll, stop } from "/images.js";
import { showAll, start, watch } from "/jobs.js";
import { changed, neutral, onChange, page, path, setScales, undo } from "/state.js";

const fillSelect = (id, entries, chosen) => {
  byId(id).replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
  byId(id).value = chosen;
};

function showState() {
  const { state } = page;
  fillSelect("base", state.bases.map((base) => [base, base]), state.base);
  fillSelect("folder", [["", "choose a file"], ...state.folder.map((name) => [name, name])], "");
  byId("from-folder").hidden = !state.folder.length;
  const places = state.adapters.map((adapter, place) => [String(place), adapter.name]);
  fillSelect("identity", places, String(state.roles.identity));
  fillSelect("style", places, String(state.roles.style));
  const two = state.adapters.length > 1;
  for (const id of ["advise", "measure"]) byId(id).disabled = !two;
  byId("make-strip").disabled = !state.adapters.length;
  draw();
  offerColours();
  showAll();
  forget();
  document.body.classList.remove("loading");
}

function showSettings() {
  for (const [name, value] of Object.entries(page.state.settings)) byId(name).value = String(value);
}

// After adapters or the base have changed.
function begin() {
  showState();
  renewAll(0);
  renewExports();
  if (page.state.adapters.length && !Object.keys(page.state.measures).length) start("weights");
  watch();
}

onChange((what) => {
  byId("undo").hidden = !page.before;
  if (what === "adapters") {
    page.before = null;
    byId("undo").hidden = true;
    begin();
    return;
  }
  show();
  renew("mix");
  renewExports();
  watch();
});

async function take(work) {
  const state = await attempt(work);
  if (!state) {
    showState();
    return;
  }
  page.state = state;
  changed("adapters");
}

async function upload(files) {
  const errors = [];
  for (const file of files) {
    if (file.size > page.state.most_upload) {
      errors.push({ asked: `uploading ${file.name}`, found: "it is too large", fix: "Start bwlab ui with a larger --max-upload, or give the file on the command line" });
      continue;
    }
    say(`Uploading ${file.name} ...`);
    await take(async () => {
      try {
        return await (await send("POST", path(`/upload?name=${encodeURIComponent(file.name)}`), file)).json();
      } catch (error) {
        if (error.shown) errors.push(error.shown);
        throw error;
      }
    });
    say("");
  }
  if (errors.length < 2) {
    if (errors.length) showError(errors[0]);
    return;
  }
  const found = errors.map((error) => `${error.asked}: ${error.found}`).join("; ");
  showError({ asked: `${errors.length} of ${files.length} files`, found, fix: "The others are open" });
}

function connect() {
  byId("base").addEventListener("change", (event) => {
    say(`Loading ${event.target.value} ...`);
    take(() => post(path("/base"), { base: event.target.value }));
  });
  byId("folder").addEventListener("change", (event) => event.target.value && take(() => post(path("/open"), { name: event.target.value })));
  byId("files").addEventListener("change", (event) => {
    upload([...event.target.files]);
    event.target.value = "";
  });
  for (const id of ["prompt", "seed", "steps", "cfg"]) {
    byId(id).addEventListener("input", (event) => {
      if (!event.target.checkValidity() || event.target.value === "") return;
      renewAll(300);
      renewExports();
      watch();
    });
  }
  byId("another").addEventListener("click", () => {
    byId("seed").value = String(Math.floor(Math.random() * 1_000_000));
    renewAll(0);
    renewExports();
    watch();
  });
  byId("stop").addEventListener("click", () => attempt(stop));
  byId("colour").addEventListener("change", colour);
  byId("measure").addEventListener("click", () => start("measure"));
  byId("reset").addEventListener("click", () => setScales(page.state.adapters.map(neutral)));
  byId("undo").addEventListener("click", undo);
  byId("make-strip").addEventListener("click", () => start("strip"));
  byId("advise").addEventListener("click", () => start("advice", { budget: Number(byId("budget").value) }));
  for (const id of ["identity", "style"]) byId(id).addEventListener("change", takeRoles);
  byId("exporting").addEventListener("toggle", renewExports);
  connectDrop();
}

async function takeRoles() {
  const roles = { identity: Number(byId("identity").value), style: Number(byId("style").value) };
  const state = await attempt(() => post(path("/roles"), roles));
  if (state) page.state.roles = state.roles;
}

function connectDrop() {
  const cover = byId("drop");
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    cover.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) cover.hidden = true;
  });
  addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    cover.hidden = true;
    upload([...event.dataTransfer.files]);
  });
}

await attempt(async () => {
  page.state = await openSession();
  connect();
  showSettings();
  begin();
});
