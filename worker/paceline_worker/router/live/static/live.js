// Asks the router once a second for its counters, and draws what they say. No library, no build step.
"use strict";

const PERIOD = 1000;
const KEPT = 300; // seconds of history
const QUANTILE_WINDOW = 15; // seconds that a quantile is taken over
const MINUTE = 60;
const FLASH = 2500;

const past = []; // one state a second, oldest first
const flips = new Map(); // engine -> [role, when it last changed]

const at = (id) => document.getElementById(id);

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function clockTime(seconds) {
  const made = element("time", new Date(seconds * 1000).toLocaleTimeString());
  made.dateTime = new Date(seconds * 1000).toISOString();
  return made;
}

// Quantile of what was counted between two states of a histogram, within its bucket by interpolation; null: nothing was.
function quantile(before, after, share) {
  const counts = after.counts.map((count, i) => count - (before ? before.counts[i] : 0));
  const total = counts.reduce((a, b) => a + b, 0);
  if (total <= 0) return null;
  let left = share * total;
  for (let i = 0; i < counts.length; i++) {
    if (left <= counts[i] && counts[i] > 0) {
      const low = i ? after.bounds[i - 1] : 0;
      const high = i < after.bounds.length ? after.bounds[i] : low;
      return low + (high - low) * (left / counts[i]);
    }
    left -= counts[i];
  }
  return after.bounds[after.bounds.length - 1];
}

function ago(seconds) {
  const last = past[past.length - 1];
  return past.find((one) => one.at >= last.at - seconds) || last;
}

function percent(share) {
  return share === null ? "–" : `${(100 * share).toFixed(share > 0.995 && share < 1 ? 2 : 1)}%`;
}

function drawClasses(state) {
  const before = ago(MINUTE);
  at("classes").replaceChildren(...state.classes.map((one, i) => {
    const row = element("tr");
    const recent = before.classes[i] || one;
    const share = (met, missed) => (met + missed > 0 ? met / (met + missed) : null);
    const lately = share(one.met - recent.met, one.missed - recent.missed);
    const ever = share(one.met, one.missed);
    const judged = (value) => element("td", percent(value), value === null ? "" : value >= one.target ? "good" : "bad");
    const name = element("th", one.name);
    name.scope = "row";
    row.append(
      name,
      element("td", `${(one.ttftSeconds * state.speed).toLocaleString()} s`),
      element("td", `${(one.itlSeconds * state.speed * 1000).toLocaleString()} ms`),
      element("td", percent(one.target)), judged(lately), judged(ever),
    );
    return row;
  }));
}

function drawEngines(state) {
  const roles = {};
  const tiles = state.engines.map((engine) => {
    const ready = engine.state === "ready" && engine.usable;
    if (ready) roles[engine.role] = (roles[engine.role] || 0) + 1;
    const known = flips.get(engine.name);
    if (!known || known[0] !== engine.role) flips.set(engine.name, [engine.role, known ? Date.now() : 0]);
    const fresh = Date.now() - flips.get(engine.name)[1] < FLASH;
    const tile = element("li", undefined, `${ready ? engine.role : "away"}${fresh ? " flipped" : ""}`);
    tile.dataset.engine = engine.name;
    tile.dataset.role = engine.role;
    const used = element("meter");
    Object.assign(used, { min: 0, max: 1, high: 0.9, optimum: 0.3, value: engine.kvUsage });
    used.setAttribute("aria-label", `KV cache in use: ${percent(engine.kvUsage)}`);
    const work = engine.role === "prefill" ? engine.prefilling : engine.running;
    const where = ready ? `${work} in flight` : engine.usable ? engine.state : `${engine.state}, does not answer`;
    tile.append(element("span", engine.role, "role"), ` · ${where}`, used, element("small", engine.name));
    return tile;
  });
  at("engines").replaceChildren(...tiles);
  const counts = Object.entries(roles).sort().map(([role, count]) => `${count} ${role}`);
  at("counts").textContent = `${counts.join(" + ") || "none"} ready, of ${state.engines.length}`;
}

// Two lines over the kept history and, where there is one, the limit.
function drawChart(id, low, high, limit, unit) {
  const svg = at(id);
  const width = 300, height = 100;
  const values = [...low, ...high].filter((value) => value !== null);
  const top = Math.max(...values, limit || 0, 1e-9) * 1.1;
  const line = (points, className) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    let pen = false, d = "";
    points.forEach((value, i) => {
      if (value === null) { pen = false; return; }
      const x = width * (1 - (points.length - 1 - i) / KEPT), y = height * (1 - value / top);
      d += `${pen ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      if (!pen) d += "h.5";
      pen = true;
    });
    path.setAttribute("d", d || "M0 0");
    path.setAttribute("class", className);
    return path;
  };
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const shapes = [line(low, "low"), line(high, "high")];
  if (limit) {
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const y = height * (1 - limit / top);
    Object.entries({ x1: 0, x2: width, y1: y, y2: y }).forEach(([name, value]) => mark.setAttribute(name, value));
    shapes.push(mark);
  }
  svg.replaceChildren(...shapes);
  const last = high[high.length - 1];
  const words = last === null ? "nothing yet" : `${last.toPrecision(3)} ${unit}`;
  svg.setAttribute("aria-label", limit ? `${words}; objective ${limit.toPrecision(3)} ${unit}` : words);
  svg.dataset.last = words;
}

function drawCharts(state) {
  const series = (name, share, scale) => past.map((one, i) => {
    const value = quantile(i ? past[Math.max(0, i - QUANTILE_WINDOW)][name] : null, one[name], share);
    return value === null ? null : value * scale * state.speed;
  });
  const objective = state.classes[0];
  drawChart("ttft", series("ttft", 0.5, 1), series("ttft", 0.95, 1), objective.ttftSeconds * state.speed, "s");
  drawChart("itl", series("itl", 0.5, 1000), series("itl", 0.95, 1000), objective.itlSeconds * state.speed * 1000, "ms");
  drawChart("load", past.map((one) => one.queued), past.map((one) => one.running), 0, "requests");
}

function drawLists(state) {
  const none = (text) => [element("li", text)];
  at("changes").replaceChildren(...(state.changes.length ? state.changes.map((change) => {
    const item = element("li");
    item.append(clockTime(change.at), `${change.engine}: ${change.text}`);
    return item;
  }) : none("nothing yet")));
  const counts = (roles) => Object.entries(roles || {}).map(([role, count]) => `${count} ${role}`).join(" + ");
  at("decisions").replaceChildren(...(state.decisions.length ? state.decisions.map((one) => {
    const item = element("li");
    const time = element("time", one.time ? new Date(one.time).toLocaleTimeString() : "");
    item.append(time, `${counts(one.before)} → ${counts(one.after)} `, element("span", one.limit ? `(${one.limit}) ` : "", "limit"), one.reason || "");
    return item;
  }) : none("none here; in a cluster: paceline explain NAME")));
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  return answer.json();
}

async function tick() {
  try {
    if (!past.length) past.push(...await ask("/live/past"));
    const state = await ask("/live/state");
    past.push(state);
    if (past.length > KEPT) past.shift();
    at("deployment").textContent = `${state.namespace}/${state.deployment}`;
    document.title = `${state.deployment} – Paceline live`;
    at("connection").textContent = `as of ${new Date(state.at * 1000).toLocaleTimeString()}`;
    at("speed").hidden = state.speed === 1;
    at("speed").textContent = `emulated engines run ${state.speed} times as fast; times are theirs`;
    drawClasses(state);
    drawEngines(state);
    drawCharts(state);
    drawLists(state);
    document.body.dataset.ready = "yes";
  } catch (error) {
    at("connection").textContent = `no answer from the router (${error.message}); trying again`;
  }
  setTimeout(tick, PERIOD);
}

tick();
