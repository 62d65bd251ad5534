"use strict";
(() => {
  const drawn = document.documentElement.dataset;

  // Searches: show the rows that contain the typed text, and open the lists that have such rows.
  for (const input of document.querySelectorAll("input[data-filters]")) {
    const place = document.getElementById(input.dataset.filters);
    const rows = [...place.querySelectorAll("tbody tr")];
    const output = document.querySelector(`output[for="${input.id}"]`);
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
      for (const list of place.querySelectorAll("details")) {
        list.open = wanted !== "" && list.querySelector("tbody tr:not([hidden])") !== null;
      }
      output.textContent = wanted ? `${rows.filter((row) => !row.hidden).length} found` : "";
    });
  }

  // Texts to copy: a button beside each. A browser that refuses the clipboard to a file from the
  // disk still copies a selection.
  for (const text of document.querySelectorAll("[data-copied]")) {
    const button = document.createElement("button");
    const name = "Copy";
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-live", "polite");
    button.addEventListener("click", async () => {
      let copied = true;
      try {
        await navigator.clipboard.writeText(text.textContent);
      } catch {
        getSelection().selectAllChildren(text);
        copied = document.execCommand("copy");
      }
      button.textContent = copied ? "Copied" : "Press Ctrl-C";
      setTimeout(() => { button.textContent = name; }, 2000);
    });
    text.after(button);
  }

  // Charts: a colour var(--…) is replaced by the page's current colour.
  const charts = [...document.querySelectorAll(".chart")].map((place) => ({
    place,
    spec: JSON.parse(place.querySelector("script").textContent),
  }));

  function coloured(value, style) {
    if (typeof value === "string") {
      const name = value.match(/^var\((--[\w-]+)\)$/);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((each) => coloured(each, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(
      Object.entries(value).map(([key, each]) => [key, coloured(each, style)]),
    );
  }

  // Start all drawings at once, because printing does not wait for a promise.
  async function draw(width) {
    const style = getComputedStyle(document.documentElement);
    const drawing = charts.map(({ place, spec }) => {
      const { data, layout } = coloured(spec, style);
      const height = place.clientHeight;
      const size = width ? { width, height, autosize: false } : { height, autosize: true };
      return Plotly.react(place, data, { ...layout, ...size }, { displayModeBar: false });
    });
    await Promise.all(drawing);
    drawn.drawn = String(Number(drawn.drawn || 0) + 1);
  }

  async function load() {
    const packed = atob(document.getElementById("plotly").textContent);
    const bytes = Uint8Array.from(packed, (each) => each.charCodeAt(0));
    const unpacking = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const library = document.createElement("script");
    library.textContent = await new Response(unpacking).text();
    document.head.append(library);
    for (const { place } of charts) place.replaceChildren();
    await draw();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
    addEventListener("resize", () => draw());
    // Paper is white, and narrower than a screen.
    addEventListener("beforeprint", () => {
      document.documentElement.classList.add("paper");
      draw(640);
    });
    addEventListener("afterprint", () => {
      document.documentElement.classList.remove("paper");
      draw();
    });
  }

  if (charts.length) load();
})();
