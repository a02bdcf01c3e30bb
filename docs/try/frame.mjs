// Fits the app's page into the documentation's: to its height, and in the scheme that the reader chose.

const frame = document.getElementById("try");

frame.onload = () => {
    const page = frame.contentDocument.documentElement, site = document.body;
    const follow = () => { page.style.colorScheme = site.dataset.mdColorScheme == "slate" ? "dark" : "light"; };
    page.classList.add("embedded");
    new MutationObserver(follow).observe(site, {attributeFilter: ["data-md-color-scheme"]});
    new ResizeObserver(() => { frame.style.height = `${page.offsetHeight}px`; }).observe(page);
    follow();
};
frame.src = "app.html";
