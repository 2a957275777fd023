"""Other ways to do the same job, each as a user of that library would write it."""
