// Filters the claims, and opens all that is folded while the page is printed. Without it, all is there.
(() => {
  "use strict";
  const filter = document.getElementById("claim-filter");
  const claims = [...document.querySelectorAll("#claim-list > li")];
  const count = document.getElementById("claim-count");
  const show = (status) => {
    let shown = 0;
    for (const claim of claims) {
      claim.hidden = status !== "" && claim.dataset.status !== status;
      shown += claim.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${claims.length} shown`;
  };
  if (filter) {
    filter.hidden = false;
    filter.addEventListener("change", (event) => show(event.target.value));
  }
  // A link to a claim that is filtered out shows all of them again.
  window.addEventListener("hashchange", () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.hidden) {
      filter.querySelector("input[value='']").checked = true;
      show("");
      target.scrollIntoView();
    }
  });
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((part) => (part.open = true));
  });
  window.addEventListener("afterprint", () => opened.forEach((part) => (part.open = false)));
})();
