// Asks for the figures again and again and shows them; asks for a key where one is needed.

import { show } from "./board.js";

const PAUSE_MS = 5000;
const KEY = "tierwise-admin-key";
const $ = (id) => document.getElementById(id);
let asking = new AbortController();
let timer = 0;
let seen = 0; // when figures last came

class Refused extends Error {}

async function figures(signal) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const range = document.querySelector("#ranges input:checked").value;
  const response = await fetch(`v1/dashboard?range=${range}`, { headers, signal, cache: "no-store" });
  const body = await response.json().catch(() => ({}));
  const message = body.error?.message ?? `The gateway answered with status ${response.status}.`;
  if (response.status === 401 || response.status === 403) throw new Refused(key ? message : "");
  if (!response.ok) throw new Error(message);
  return body;
}

async function refresh() {
  clearTimeout(timer);
  asking.abort();
  const mine = (asking = new AbortController());
  try {
    const found = await figures(mine.signal);
    if (mine.signal.aborted) return;
    $("login").hidden = true;
    $("board").hidden = false;
    $("leave").hidden = !sessionStorage.getItem(KEY);
    show(found);
    seen = Date.now();
    state("live", "live");
  } catch (error) {
    if (mine.signal.aborted) return;
    if (error instanceof Refused) return askForKey(error.message);
    const message = error instanceof TypeError ? "The gateway does not answer." : error.message;
    state("lost", seen ? `as of ${new Date(seen).toLocaleTimeString("en-GB")}` : "no figures", message);
  }
  if (!document.hidden) timer = setTimeout(refresh, PAUSE_MS);
}

/** Say whether what is shown is live; what is said again is not read aloud again. */
function state(name, words, trouble = "") {
  const status = $("status");
  status.dataset.state = name;
  if (status.textContent !== words) status.textContent = words;
  if ($("trouble").textContent !== trouble) $("trouble").textContent = trouble;
  $("trouble").hidden = !trouble;
  $("board").classList.toggle("old", name === "lost");
}

function askForKey(message) {
  sessionStorage.removeItem(KEY);
  $("board").hidden = $("leave").hidden = true;
  $("login").hidden = false;
  $("refused").textContent = message;
  state("waiting", "waits for a key");
  $("key").focus();
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  $("key").value = "";
  refresh();
});
$("leave").addEventListener("click", () => {
  asking.abort();
  clearTimeout(timer);
  askForKey("");
});
$("ranges").addEventListener("change", refresh);
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
refresh();
