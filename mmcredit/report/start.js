buildCurves();
if (report.samples.length) buildSamples();
document.documentElement.dataset.ready = "true";
