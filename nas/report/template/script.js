"use strict";
(() => {
  const read = (element) => JSON.parse(element.textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // Colours such as "--slimmed" become what the page's style makes of them now.
  function colored(value) {
    if (typeof value === "string" && /^--[a-z]+$/.test(value)) {
      return getComputedStyle(document.documentElement).getPropertyValue(value).trim();
    }
    if (Array.isArray(value)) return value.map(colored);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, it]) => [key, colored(it)]));
    }
    return value;
  }

  function withStyle(layout) {
    const [ink, card, line] = colored(["--ink", "--card", "--line"]);
    const family = getComputedStyle(document.body).fontFamily;
    return {
      ...colored(layout),
      autosize: true,
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family, size: 12, color: ink },
      hoverlabel: { align: "left", bgcolor: card, bordercolor: line, font: { family, size: 12, color: ink } },
    };
  }

  const shown = new Map();
  function draw() {
    for (const element of document.querySelectorAll("script[data-figure]")) {
      const place = document.getElementById(element.dataset.figure);
      const { data, layout } = read(element);
      if (layout.height) place.style.height = `${layout.height}px`;
      const options = { responsive: true, displayModeBar: false };
      Plotly.react(place, colored(data), withStyle(layout), options);
    }
    for (const show of shown.values()) show();
  }

  function cells(row, texts) {
    for (const text of texts) row.insertCell().textContent = text;
  }

  const number = (value, digits) => (value === null ? "-" : value.toFixed(digits));
  const percent = (value) => (value === null ? "not evaluated" : `${(100 * value).toFixed(2)} %`);

  function prepareWalk(section) {
    const id = section.dataset.walk;
    const { per, steps } = read(section.querySelector("script[data-steps]"));
    const slider = section.querySelector("input");
    const body = section.querySelector("tbody");
    const text = section.querySelector(".step-text");
    const place = document.getElementById(`${id}-walk`);

    function show() {
      const index = Number(slider.value) - 1;
      const step = steps[index];
      const taken = step.actions.find((it) => it.taken);
      const reason = taken.rate === null
        ? "the best by what such actions lost before, or by chance where nothing is known"
        : taken.drop > 0
          ? `${number(taken.drop, 2)} points lost for ${number(taken.gain, 3)} ${per}, the least per ${per} of what is known`
          : `${number(-taken.drop, 2)} points won together with ${number(taken.gain, 3)} ${per}`;
      text.replaceChildren(`Step ${index + 1} of ${steps.length}, at ${number(step.latency, 3)} ms, ${percent(step.accuracy)}: `);
      const chosen = document.createElement("strong");
      chosen.textContent = `${taken.choice} to ${taken.option}`;
      text.append(chosen, `. ${reason[0].toUpperCase()}${reason.slice(1)}.`);
      body.replaceChildren();
      for (const action of step.actions) {
        const row = body.insertRow();
        row.className = action.taken ? "taken" : action.accuracy === null ? "unseen" : "";
        cells(row, [
          `${action.choice} to ${action.option}${action.taken ? " (taken)" : ""}`,
          number(action.saved, 4), number(action.mes, 2), percent(action.accuracy),
          number(action.drop, 2), number(action.rate, 3),
        ]);
      }
      if (place.layout) {
        const [ink, muted] = colored(["--ink", "--muted"]);
        const targets = place.layout.shapes.filter((it) => it.name !== "step");
        Plotly.relayout(place, {
          shapes: [...targets, {
            name: "step", type: "line", x0: index + 1, x1: index + 1, yref: "paper", y0: 0, y1: 1,
            layer: "below", line: { color: muted || ink, width: 6 }, opacity: 0.25,
          }],
        });
      }
    }

    slider.addEventListener("input", show);
    for (const button of section.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        slider.value = Number(slider.value) + Number(button.dataset.move);
        show();
      });
    }
    shown.set(id, show);
    show();
    return () => place.on("plotly_click", (event) => {
      slider.value = event.points[0].x;
      show();
    });
  }

  async function loadPlotly() {
    const packed = document.getElementById("plotly");
    const bytes = Uint8Array.from(atob(packed.textContent), (it) => it.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    script.remove();
    packed.remove();
  }

  const followers = [...document.querySelectorAll("[data-walk]")].map(prepareWalk);
  loadPlotly().then(() => {
    draw();
    followers.forEach((follow) => follow());
    dark.addEventListener("change", draw);
    document.documentElement.dataset.drawn = "true";
  }).catch((error) => {
    const trouble = document.getElementById("trouble");
    trouble.hidden = false;
    trouble.textContent = `The figures cannot be drawn (a browser of 2023 or later can): ${error.message}`;
    console.error(error);
  });
})();
