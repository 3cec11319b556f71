"""The app in the browser: playground, explorer, questions, and a study beside them. It knows guidance and its traces,
not how a pipeline carries it out, nor how anything was trained."""
