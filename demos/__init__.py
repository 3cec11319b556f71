"""What a user starts: pictures, batches, questions about pictures, the app and the preference study. It knows every
room but those that train and measure."""
