"""The app in the browser: playground, explorer, questions, and a study beside them."""
