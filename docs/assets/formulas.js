// Formulas that pymdownx.arithmatex marked, and those of docstrings, which carry the same delimiters.
document.addEventListener("DOMContentLoaded", () =>
  renderMathInElement(document.querySelector("article"), {
    delimiters: [
      { left: "\\[", right: "\\]", display: true },
      { left: "\\(", right: "\\)", display: false },
    ],
    throwOnError: false,
  })
);
