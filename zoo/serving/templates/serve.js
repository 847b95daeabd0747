"use strict";
// One entry for each image: {file, address, prediction, fault, views}. The page is drawn from them.
const facts = JSON.parse(document.getElementById("facts").textContent);
const entries = [];
const waiting = [];
const AT_ONCE = 4;
const TRIES = 4;
let working = 0;
let shown = null;

const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

function add(files) {
  const added = [...files].map((file) => ({ file, address: URL.createObjectURL(file), prediction: null, fault: "", views: null }));
  if (!added.length) return;
  entries.push(...added);
  waiting.push(...added);
  for (const entry of added) addRow(entry);
  byId("many").hidden = entries.length < 2;
  show(added[0]);
  while (working < AT_ONCE && waiting.length) work();
}

async function work() {
  working += 1;
  while (waiting.length) {
    const entry = waiting.shift();
    try {
      const answer = await ask("predict", entry.file);
      entry.prediction = answer.predictions[0];
      if (answer.digest !== facts.digest) say("The server has another classifier now. Load the page again.");
    } catch (error) {
      entry.fault = error.message;
    }
    drawRow(entry);
    if (entry === shown) draw();
    tell();
  }
  working -= 1;
}

// Addresses are relative to the page: a proxy may have put it below a folder.
async function ask(path, file) {
  for (let tried = 1; ; tried += 1) {
    const form = new FormData();
    form.append("image", file, file.name || "pasted image");
    let response;
    try {
      response = await fetch(path, { method: "POST", body: form });
    } catch {
      throw new Error("The server does not answer. Is it still running?");
    }
    if (response.status === 503 && tried < TRIES) {
      await pause(Number(response.headers.get("Retry-After")) || 1);
      continue;
    }
    const body = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(body.detail || `The server answered with ${response.status}.`);
    return body;
  }
}

function say(text) { byId("status").textContent = text; }

function tell() {
  if (!entries.length) return;
  const done = entries.filter((entry) => entry.prediction || entry.fault).length;
  const last = shown && shown.prediction;
  if (done < entries.length) say(`${done} of ${entries.length} images are classified.`);
  else if (entries.length === 1 && last) say(`${last.label}, ${percent(last.probability)}${last.unsure ? ", unsure" : ""}`);
  else say(`${entries.length} ${entries.length === 1 ? "image" : "images"}, ${entries.filter((entry) => entry.fault).length} could not be classified.`);
}

function show(entry) {
  shown = entry;
  for (const each of entries) if (each === entry) each.row.setAttribute("aria-current", "true"); else each.row.removeAttribute("aria-current");
  byId("one").hidden = false;
  draw();
}

function draw() {
  const { file, prediction, fault } = shown;
  byId("picture").src = shown.address;
  byId("picture").alt = file.name;
  byId("source").textContent = file.name;
  byId("answer").textContent = prediction ? prediction.label : fault ? "No answer" : "…";
  const unsure = Boolean(prediction && prediction.unsure);
  byId("unsure").hidden = !unsure;
  byId("unsure").textContent = unsure ? `Unsure: ${percent(prediction.probability)} is below ${percent(facts.unsure.below)}. ${facts.unsure.why}` : "";
  byId("fault").hidden = !fault;
  byId("fault").textContent = fault;
  byId("bars").classList.toggle("unsure", unsure);
  byId("bars").replaceChildren(...(prediction ? prediction.top.map(bar) : []));
  drawViews();
  if (prediction && !shown.views) explain(shown);
}

function bar({ label, probability }) {
  const line = document.createElement("li");
  const [name, track, fill, value] = ["span", "span", "i", "span"].map((tag) => document.createElement(tag));
  name.className = "name"; name.textContent = name.title = label;
  track.className = "track"; fill.style.width = `${100 * probability}%`; track.append(fill);
  value.className = "n"; value.textContent = percent(probability);
  line.append(name, track, value);
  return line;
}

async function explain(entry) {
  entry.views = {};
  try {
    entry.views = (await ask("explain", entry.file)).explanations[0];
  } catch (error) {
    entry.views = { reason: error.message };
  }
  if (entry === shown) drawViews();
}

function drawViews() {
  const views = shown.views;
  byId("views").hidden = !(views && (views.seen || views.reason));
  if (byId("views").hidden) return;
  byId("seen").hidden = !views.seen;
  if (views.seen) byId("seen").src = views.seen;
  byId("overlay").hidden = !views.overlay;
  if (views.overlay) byId("overlay").src = views.overlay;
  byId("overlay").alt = `where the classifier looked for ${views.label}`;
  byId("layer").textContent = views.overlay ? `Grad-CAM: bright areas speak for ${views.label}. Layer: ${views.layer}` : `There is no heat map: ${views.reason}.`;
}

function addRow(entry) {
  entry.row = document.createElement("tr");
  const [image, label, probability] = Array.from({ length: 3 }, () => document.createElement("td"));
  const pick = document.createElement("button");
  pick.type = "button"; pick.className = "pick";
  const small = document.createElement("img");
  small.src = entry.address; small.alt = ""; small.loading = "lazy";
  small.onerror = () => { small.style.visibility = "hidden"; };
  pick.append(small, entry.file.name);
  pick.onclick = () => { show(entry); byId("answer").focus(); byId("one").scrollIntoView({ block: "nearest" }); };
  image.append(pick);
  probability.className = "n";
  entry.row.append(image, label, probability);
  byId("rows").append(entry.row);
}

function drawRow({ row, prediction, fault }) {
  const [, label, probability] = row.children;
  label.textContent = prediction ? prediction.label : fault;
  label.className = fault ? "error" : "";
  label.colSpan = fault ? 2 : 1;
  probability.hidden = Boolean(fault);
  probability.textContent = prediction ? percent(prediction.probability) : "";
  if (!prediction || !prediction.unsure) return;
  const mark = document.createElement("span");
  mark.className = "mark"; mark.textContent = "unsure";
  probability.append(mark);
}

function csv() {
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const rows = entries.filter((entry) => entry.prediction || entry.fault).map(({ file, prediction, fault }) =>
    prediction ? [file.name, prediction.label, prediction.probability.toFixed(6), prediction.unsure ? "yes" : "no", ""] : [file.name, "", "", "", fault]);
  return [["source", "label", "probability", "unsure", "error"], ...rows].map((row) => row.map(quoted).join(",")).join("\n") + "\n";
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function clear() {
  for (const entry of entries) URL.revokeObjectURL(entry.address);
  entries.length = waiting.length = 0;
  shown = null;
  byId("rows").replaceChildren();
  byId("one").hidden = byId("many").hidden = true;
  say("");
  byId("choose").focus();
}

async function openCamera() {
  // A telephone has an app for it; elsewhere the page shows the camera itself, where the browser lets it.
  const own = navigator.mediaDevices && !matchMedia("(pointer: coarse)").matches;
  if (!own) { byId("photo").click(); return; }
  try {
    byId("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    byId("camera").showModal();
  } catch (error) {
    say(`There is no camera that may be used: ${error.message}.`);
  }
}

function closeCamera() {
  const stream = byId("video").srcObject;
  if (stream) for (const track of stream.getTracks()) track.stop();
  byId("video").srcObject = null;
}

function shoot() {
  const canvas = document.createElement("canvas");
  canvas.width = byId("video").videoWidth; canvas.height = byId("video").videoHeight;
  if (!canvas.width) return;
  canvas.getContext("2d").drawImage(byId("video"), 0, 0);
  canvas.toBlob((blob) => {
    byId("camera").close();
    add([new File([blob], "photo.png", { type: "image/png" })]);
  }, "image/png");
}

byId("choose").onclick = () => byId("files").click();
byId("photograph").onclick = openCamera;
byId("shoot").onclick = shoot;
byId("leave").onclick = () => byId("camera").close();
byId("camera").onclose = closeCamera;
byId("save").onclick = save;
byId("clear").onclick = clear;
byId("picture").onerror = () => { byId("picture").alt = `${byId("source").textContent} cannot be shown by this browser`; };
for (const id of ["files", "photo"]) byId(id).onchange = (event) => { add(event.target.files); event.target.value = ""; };
document.addEventListener("paste", (event) => add(event.clipboardData.files));
// Dropped anywhere: beside the field, the browser would open the image instead of the page.
document.addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => { event.preventDefault(); byId("drop").classList.remove("over"); add(event.dataTransfer.files); });
byId("photograph").hidden = !navigator.mediaDevices && !matchMedia("(pointer: coarse)").matches;
byId("predict").textContent = new URL("predict", location.href).href;
