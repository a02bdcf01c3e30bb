// Fits the app's page into the documentation's: to its height, in the scheme that the reader chose, and under one
// address: what the app's says of captions and seed stands in that of the documentation.

const frame = document.getElementById("try");

frame.onload = () => {
    const page = frame.contentDocument.documentElement, site = document.body;
    const follow = () => { page.style.colorScheme = site.dataset.mdColorScheme == "slate" ? "dark" : "light"; };
    page.classList.add("embedded");
    new MutationObserver(follow).observe(site, {attributeFilter: ["data-md-color-scheme"]});
    new ResizeObserver(() => { frame.style.height = `${page.offsetHeight}px`; }).observe(page);
    follow();
    const app = frame.contentWindow;
    app.onhashchange = () => history.replaceState(null, "", app.location.hash);
};
frame.src = `app.html${location.hash}`;
